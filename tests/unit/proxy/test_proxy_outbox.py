"""What is put into the outbox goes out in the same turn's end, in order, and never to a connection that closed."""

from __future__ import annotations

import asyncio
from typing import cast

from gaiad.proxy.outbox import Outbox


class Wire:
    """Stands in for a connection: keeps what was written, with the others in one list, in order."""

    def __init__(self, name: str, written: list[tuple[str, bytes]]) -> None:
        self.name = name
        self.closed = False
        self._written = written

    def is_closing(self) -> bool:
        return self.closed

    def write(self, data: bytes) -> None:
        self._written.append((self.name, data))


def put(outbox: Outbox, wire: Wire, data: bytes) -> None:
    outbox.put(cast("asyncio.Transport", wire), data)


async def test_all_that_is_put_in_one_turn_goes_out_at_its_end_in_order() -> None:
    written: list[tuple[str, bytes]] = []
    a, b, outbox = Wire("a", written), Wire("b", written), Outbox()
    put(outbox, a, b"1")
    put(outbox, b, b"2")
    put(outbox, a, b"3")
    assert written == []
    await asyncio.sleep(0)
    assert written == [("a", b"1"), ("b", b"2"), ("a", b"3")]


async def test_every_turn_has_its_own_end() -> None:
    written: list[tuple[str, bytes]] = []
    wire, outbox = Wire("a", written), Outbox()
    for number in (b"1", b"2"):
        put(outbox, wire, number)
        await asyncio.sleep(0)
    assert written == [("a", b"1"), ("a", b"2")]


async def test_a_connection_that_closed_meanwhile_takes_nothing_from_the_others() -> None:
    written: list[tuple[str, bytes]] = []
    gone, there, outbox = Wire("gone", written), Wire("there", written), Outbox()
    put(outbox, gone, b"1")
    put(outbox, there, b"2")
    gone.closed = True
    await asyncio.sleep(0)
    assert written == [("there", b"2")]
