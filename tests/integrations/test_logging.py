"""Trace events as log records."""

from __future__ import annotations

import logging

import pytest

import anyssh
from anyssh import TraceEvent, TraceId, TraceLevel
from anyssh.integrations.logging import LogTrace
from anyssh.testing import memory_stream_pair
from tests.session.ends import ALICE, at_once, host_key, make_server


async def test_the_trace_of_a_session(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "anyssh.trace")
    near, far = memory_stream_pair()
    server = make_server()

    async def serve() -> None:
        async with server.accept(far) as session:
            await session.wait_closed()

    async def connect() -> None:
        async with anyssh.ClientSession.connect(
            near,
            credentials=ALICE,
            verify_host=anyssh.pin(host_key().fingerprint),
            trace=LogTrace(context={"server_name": "here"}),
        ):
            pass

    await at_once(serve(), connect())
    records = [record for record in caplog.records if record.name == "anyssh.trace"]
    assert {record.ssh_event for record in records} >= {"protocol_version", "session_encrypted"}  # type: ignore[attr-defined]
    for record in records:
        assert TraceId(record.ssh_event_id).name.lower() == record.ssh_event  # type: ignore[attr-defined]
        assert record.server_name == "here"  # type: ignore[attr-defined]
        assert record.levelno >= logging.INFO


@pytest.mark.parametrize(
    "level,expected",
    [
        (TraceLevel.ERROR, logging.ERROR),
        (TraceLevel.WARNING, logging.WARNING),
        (TraceLevel.INFO, logging.INFO),
        (TraceLevel.VERBOSE, logging.DEBUG),
    ],
)
def test_levels(level: TraceLevel, expected: int, caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("anyssh.test")
    error = ValueError("x")
    caplog.set_level(expected, "anyssh.test")
    LogTrace(logger)(TraceEvent(TraceId.CHANNEL_OPENED, level, "100% open", error))
    (record,) = caplog.records
    assert record.getMessage() == "100% open"
    assert record.levelno == expected
    assert record.ssh_error is error  # type: ignore[attr-defined]
    caplog.clear()
    caplog.set_level(expected + 1, "anyssh.test")
    LogTrace(logger)(TraceEvent(TraceId.CHANNEL_OPENED, level, "open"))
    assert caplog.records == []
