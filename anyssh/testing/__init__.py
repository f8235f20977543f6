"""Tools for testing programs that use anyssh, or any AnyIO byte stream.

* :func:`memory_stream_pair`: two connected byte streams without a network.
* :class:`FaultStream`: a byte stream with planned faults.
* :func:`check_byte_stream`: checks a byte stream of your own against AnyIO's contract.
* :func:`session_pair`: a client and a server, connected in memory.

They use only public names of anyssh and AnyIO, and run on asyncio and Trio.
"""

from __future__ import annotations

from .conformance import RULES, ConformanceError, Rule, StreamPairFactory, check_byte_stream
from .fault_stream import FaultStream
from .faults import (
    Coalesce,
    Cut,
    CutInSend,
    Delay,
    Delete,
    Direction,
    Duplicate,
    Ending,
    Fault,
    FlipBit,
    HalfClose,
    Insert,
    Report,
    Slice,
    Stall,
    Swap,
    Throttle,
)
from .memory import MemoryStream, memory_stream_pair
from .sessions import StreamWrapper, session_pair

__all__ = [
    "RULES",
    "Coalesce",
    "ConformanceError",
    "Cut",
    "CutInSend",
    "Delay",
    "Delete",
    "Direction",
    "Duplicate",
    "Ending",
    "Fault",
    "FaultStream",
    "FlipBit",
    "HalfClose",
    "Insert",
    "MemoryStream",
    "Report",
    "Rule",
    "Slice",
    "Stall",
    "StreamPairFactory",
    "StreamWrapper",
    "Swap",
    "Throttle",
    "check_byte_stream",
    "memory_stream_pair",
    "session_pair",
]
