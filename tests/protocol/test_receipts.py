"""Receipts sent on their own: when they are due, and when not (HR-68)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from anyssh.constants import Extension, Mac, MessageNumber
from anyssh.messages import GlobalRequest, Ignore
from anyssh.protocol.reconnect import RECEIPT_BYTES, RECEIPT_MESSAGES, RECEIPT_TIME, _is_weaker

from .core_pair import CLIENT, SERVER, CorePair
from .test_reconnect import reconnecting_pair


def quiet_pair() -> CorePair:
    """Return a running pair in which nobody owes anybody a receipt."""
    pair = reconnecting_pair()
    pair.advance(5)
    return pair


def receipts(pair: CorePair) -> int:
    """Return how many packets the server has sent for the sake of their receipts alone."""
    return pair.sent_numbers(SERVER).count(MessageNumber.IGNORE)


def say(pair: CorePair) -> None:
    """Have the client say something that is not answered."""
    pair.send(CLIENT, pair.channels[0][0], b"x")
    pair.pump()


def test_a_receipt_is_due_a_second_after_the_first_message_that_waits() -> None:
    """HR-68: later messages do not put it off, and it does not leave any earlier."""
    pair = quiet_pair()
    before = receipts(pair)
    say(pair)
    for _ in range(3):
        pair.advance(0.3 * RECEIPT_TIME)
        pair.server.handle_timeout(pair.now)
        say(pair)
        assert receipts(pair) == before
    pair.advance(0.11 * RECEIPT_TIME)
    assert receipts(pair) == before + 1
    pair.advance(600)
    assert receipts(pair) == before + 1


def test_a_receipt_is_due_after_many_messages() -> None:
    """HR-68: 256 of them."""
    assert RECEIPT_MESSAGES == 256
    pair = quiet_pair()
    before = receipts(pair)
    for _ in range(RECEIPT_MESSAGES - 1):
        say(pair)
    assert receipts(pair) == before
    say(pair)
    assert receipts(pair) == before + 1


@pytest.mark.parametrize("missing", [0, 1])
def test_a_receipt_is_due_after_many_bytes(missing: int) -> None:
    """HR-68"""
    pair = quiet_pair()
    say(pair)
    before = receipts(pair)
    transport = pair.server.transport
    transport.receipted_bytes = transport.bytes_received - RECEIPT_BYTES + missing
    pair.server._reconnector.give_receipt_if_due(pair.now)
    pair.pump()
    assert receipts(pair) == before + (not missing)


def test_the_bytes_of_what_is_ignored_are_no_reason_for_a_receipt() -> None:
    """HR-68: as little as the message itself is."""
    pair = quiet_pair()
    say(pair)
    before = receipts(pair)
    for _ in range(6):
        pair.inject(CLIENT, Ignore(bytes(200 * 1024)).encode())
    assert receipts(pair) == before


def test_a_server_learns_at_once_that_its_answer_has_come() -> None:
    """A client that goes on over a new stream may have nothing to say for long."""
    pair = quiet_pair()
    pair.lose()
    pair.reconnect()
    assert pair.sent_numbers(CLIENT)[-1] == MessageNumber.IGNORE


def test_a_lost_session_is_asked_for_with_a_request_that_wants_an_answer() -> None:
    pair = quiet_pair()
    pair.lose()
    pair.reconnect()
    asked = [
        GlobalRequest.decode(payload)
        for payload in pair.sent(CLIENT)
        if payload[0] == MessageNumber.GLOBAL_REQUEST
    ]
    wanted = {request.request_name: request.want_reply for request in asked}
    assert wanted[Extension.SESSION_RECONNECT_REQUEST]
    assert not wanted[Extension.ENABLE_SESSION_RECONNECT_REQUEST]


def test_a_delay_of_hours_is_told_as_the_longest_that_can_be_told() -> None:
    pair = quiet_pair()
    say(pair)
    pair.now += 3 * 3600
    pair.send(SERVER, pair.channels[0][1], b"late")
    pair.pump()
    pair.assert_usable()


@pytest.mark.parametrize("direction", ["mac_client_to_server", "mac_server_to_client"])
def test_codes_must_not_be_weaker_in_either_direction(direction: str) -> None:
    """HR-64"""
    before = quiet_pair().client.exchanger.algorithms
    assert before is not None
    strong = replace(
        before, mac_client_to_server=Mac.HMAC_SHA2_512, mac_server_to_client=Mac.HMAC_SHA2_512
    )
    assert not _is_weaker(strong, strong)
    for weak in (Mac.HMAC_SHA2_256, ""):
        assert _is_weaker(replace(strong, **{direction: weak}), strong)
        assert not _is_weaker(strong, replace(strong, **{direction: weak or Mac.HMAC_SHA2_256}))
