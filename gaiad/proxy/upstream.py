"""Pooled raw HTTP/1.1 connections to the engine: one call at a time on each, its reply handed on as it arrives.

Touches sockets and one timer for all calls. A stream's bytes go from the engine's socket to whoever asked within the
same turn of the loop: no task is woken for a chunk. What is sent, and what a reply means, is decided elsewhere.
"""

from __future__ import annotations

import asyncio
import select
import ssl
import time
from collections import deque
from collections.abc import Callable
from typing import cast
from urllib.parse import urlsplit

import httptools

from gaiad.proxy.outbox import Outbox

CONNECT_TIMEOUT_S = 5.0
KEEPALIVE_S = 2.0
"""Shorter than the engine's own 5 s, so that no request goes out on a connection that is being closed."""


_MOST_BEGINNINGS = 64
_EVENTS = b"text/event-stream"


class NotConnected(Exception):
    """The engine took no connection, so it never saw the request."""


class NotTaken(Exception):
    """The engine closed the connection before it had read the request: it never saw it, or not all of it."""


class BrokenOff(Exception):
    """The engine closed the connection, or spoke nonsense, before its reply was whole."""


class Call:
    """One request on its way. `status` and `headers` (lower-case names) are set once `head` returns.

    The body goes to `pieces` until `attach` names somebody who takes each piece as it arrives.
    """

    __slots__ = (
        "_connection",
        "_failure",
        "_loop",
        "_timeout_s",
        "_waiter",
        "_woken",
        "deadline",
        "ended",
        "first_byte_at",
        "headers",
        "pieces",
        "started",
        "status",
        "take",
    )

    def __init__(self, connection: _Connection, timeout_s: float) -> None:
        self._connection: _Connection | None = connection
        self._loop = connection.loop
        self.deadline = time.monotonic() + timeout_s
        self._timeout_s = timeout_s
        self._failure: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._woken = False
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.pieces: list[bytes] = []
        self.take: Callable[[bytes], None] | None = None
        self.started = False
        self.ended = False
        self.first_byte_at: float | None = None

    @property
    def is_stream(self) -> bool:
        """Whether the reply is a stream of events."""
        told = self.headers.get(b"content-type")
        return told is not None and told[:17].lower() == _EVENTS and told[17:18] in (b"", b";", b" ")

    def header(self, name: str) -> str:
        """One of the reply's headers, by its lower-case name; empty where there is none."""
        found = self.headers.get(name.encode())
        return "" if found is None else found.decode("latin-1")

    async def head(self) -> None:
        """Wait for status and headers.

        Raises:
            NotTaken: the engine closed with the request unread.
            BrokenOff: the engine closed before.
            TimeoutError: it said nothing in time.
        """
        while not self.started:
            self._raise_failure()
            await self._next()
            self._waiter = None

    async def first(self) -> None:
        """Wait for the first bytes of the body, or its end. Raises like `head`."""
        while not self.pieces and not self.ended:
            self._raise_failure()
            await self._next()
            self._waiter = None

    async def whole(self) -> bytes:
        """Wait for the end of the reply and return its body. Raises like `head`."""
        while not self.ended:
            self._raise_failure()
            await self._next()
            self._waiter = None
        return self.taken()

    async def moved(self) -> bool:
        """Wait until the reply ends or `wake` is called; True at the end. Raises like `head`."""
        if not self.ended:
            self._raise_failure()
            await self._next()
            self._waiter = None
        if not self.ended:
            self._raise_failure()
        return self.ended

    def taken(self) -> bytes:
        """Take out what came so far."""
        pieces, self.pieces = self.pieces, []
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def attach(self, take: Callable[[bytes], None]) -> None:
        """Hand what came so far and every later piece to `take`, in the same turn as it arrives."""
        self.take = take
        if self.pieces:
            take(self.taken())

    def wake(self) -> None:
        """Make `moved` return, now or when it is next called."""
        if self._waiter is None:
            self._woken = True
        elif not self._waiter.done():
            self._waiter.set_result(None)

    def hold_back(self) -> None:
        """Read no more from the engine until `go_on`; what it sends meanwhile waits in the kernel."""
        if self._connection is not None:
            self._connection.pause()

    def go_on(self) -> None:
        """Undo `hold_back`."""
        if self._connection is not None:
            self._connection.resume()

    def close(self) -> None:
        """Give the call up: unless its reply is whole, its connection is cut and the engine ends its work."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.cut()

    # --- what the connection tells ------------------------------------------------------------------------------------

    def began(self, status: int, headers: dict[bytes, bytes]) -> None:
        """Take status and headers."""
        self.status, self.headers, self.started = status, headers, True
        self.wake()

    def got(self, piece: bytes) -> None:
        """Take a piece of the body that nobody is attached for yet."""
        if self.first_byte_at is None:
            self.first_byte_at = time.monotonic()
        self.pieces.append(piece)
        if len(self.pieces) == 1:
            self.wake()

    def complete(self) -> None:
        """Take note that the reply is whole; the connection is no longer this call's."""
        self._connection = None
        self.ended = True
        self.wake()

    def fail(self, failure: Exception) -> None:
        """Take note that there will be no more."""
        self._connection = None
        self._failure = failure
        self.wake()

    def expire(self) -> None:
        """End the call because its time is over."""
        connection = self._connection
        self.fail(TimeoutError(f"no whole reply within {self._timeout_s:g} s"))
        if connection is not None:
            connection.cut()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _next(self) -> asyncio.Future[None]:
        """What is done once `wake` is called, or was since somebody last waited; whoever waited takes it away."""
        self._waiter = waiter = self._loop.create_future()
        if self._woken:
            waiter.set_result(None)
        self._woken = False
        return waiter


class _Connection(asyncio.Protocol):
    """One connection; `call` is what runs on it now."""

    def __init__(self, pool: Upstream) -> None:
        self.loop = asyncio.get_running_loop()
        self.idle_since = 0.0
        self.call: Call | None = None
        self._pool = pool
        self._transport: asyncio.Transport | None = None
        self._told: dict[bytes, bytes] = {}
        # The parser's own call keeps a header: one in Python for each header of each reply would cost more.
        self.on_header = self._told.__setitem__
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[bytes, bytes] = {}
        self._held_back = False
        self._sent_in = 0
        self._poll = select.poll()

    @property
    def usable(self) -> bool:
        """Whether a request can be sent on it."""
        return self._transport is not None and not self._transport.is_closing()

    @property
    def is_quiet(self) -> bool:
        """Whether nothing came on it that the loop has not heard yet: on a free connection that is its end."""
        return self.usable and not self._poll.poll(0)

    def send(self, call: Call, request: bytes) -> None:
        """Begin a call."""
        self.call = call
        assert self._transport is not None
        self._sent_in = self._pool.outbox.turn
        self._pool.outbox.put(self._transport, request)

    def pause(self) -> None:
        """Read nothing until `resume`."""
        if self._transport is not None and not self._held_back:
            self._held_back = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if self._transport is not None and self._held_back:
            self._held_back = False
            self._transport.resume_reading()

    def cut(self) -> None:
        """Close at once."""
        self.call = None
        if self._transport is not None:
            self._transport.abort()

    # --- asyncio ------------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast("asyncio.Transport", transport)
        self._poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    def data_received(self, data: bytes) -> None:
        """Parse; what a call is to know, it is told from within."""
        if self.call is None:
            # Nobody asked: whatever this is, the connection is not to be trusted with a request.
            self.cut()
            return
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self.break_off(f"it answered with something that is not HTTP ({error})")

    def eof_received(self) -> bool:
        """Let the transport close; a request that waits in the outbox never leaves it then."""
        if self.call is not None and self._sent_in == self._pool.outbox.turn:
            call, self.call = self.call, None
            call.fail(NotTaken("it closed the connection before the request was sent"))
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the call, if one is under way: a reply without a length ends here, any other is broken.

        A closing end that has read all it was sent says so orderly; with something unread it resets the connection.
        """
        self._transport = None
        self._pool.forget(self)
        call = self.call
        if call is None:
            return
        if exc is None and call.started and not self._has_length():
            self.call = None
            call.complete()
        elif isinstance(exc, ConnectionError) and not call.started:
            self.call = None
            call.fail(NotTaken("it closed the connection with the request unread"))
        else:
            self.break_off("it closed the connection")

    def _has_length(self) -> bool:
        return b"content-length" in self._headers or b"transfer-encoding" in self._headers

    def break_off(self, why: str) -> None:
        """Close at once, and tell the call."""
        call, self.call = self.call, None
        if call is not None:
            call.fail(BrokenOff(why))
        self.cut()

    # --- httptools ----------------------------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Begin a reply."""
        self._told.clear()
        self._headers = {}
        if self.call is None:
            # Nobody asked: what follows a whole reply makes the connection useless for the next request.
            self.cut()

    def on_headers_complete(self) -> None:
        """Tell the call."""
        self._headers = {name.lower(): value for name, value in self._told.items()}
        status = self._parser.get_status_code()
        if self.call is not None and status >= 200:
            self.call.began(status, self._headers)

    def on_body(self, body: bytes) -> None:
        """Hand a piece on."""
        call = self.call
        if call is None:
            return
        if call.take is not None:
            call.take(body)
        else:
            call.got(body)

    def on_message_complete(self) -> None:
        """End the call, and go back to the pool where the engine keeps the connection."""
        call = self.call
        # 1. An interim reply (1xx). 2. Cut meanwhile.
        if call is None or self._parser.get_status_code() < 200:
            return
        self.call = None
        # Valid only here, says httptools.
        if self._parser.should_keep_alive() and self.usable:
            self.resume()
            self._pool.keep(self)
        elif self._transport is not None:
            self._transport.close()
        call.complete()


class Upstream:
    """The engine's address and the connections to it that are free."""

    def __init__(self, url: str, *, api_key: str, timeout_s: float, outbox: Outbox | None = None) -> None:
        self.outbox = outbox or Outbox()
        parts = urlsplit(url)
        self._host = parts.hostname or "127.0.0.1"
        self._ssl = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._ssl else 80)
        self._timeout_s = timeout_s
        self._sweep_s = min(1.0, timeout_s / 4)
        self._sweeping: asyncio.TimerHandle | None = None
        self._free: deque[_Connection] = deque()
        self._all: set[_Connection] = set()
        authorization = f"Authorization: Bearer {api_key}\r\n" if api_key else ""
        self._constant = (
            f" HTTP/1.1\r\nHost: {parts.netloc.rpartition('@')[2]}\r\nAccept-Encoding: identity\r\n{authorization}"
        )
        self._beginnings: dict[tuple[str, str], bytes] = {}

    @property
    def free(self) -> int:
        """How many connections wait for a call."""
        return len(self._free)

    async def send(self, method: str, path: str, body: bytes, request_id: str) -> Call:
        """Send a request and return the call; whoever gets it must `close` it.

        `path` is the engine's, as `endpoints` has it: no query.

        Raises:
            NotConnected: the engine takes no connection.
        """
        connection = self._newest_free() or await self._connect()
        return self._send_on(connection, self._request(method, path, body, request_id))

    def send_now(self, path: str, body: bytes, request_id: str) -> Call | None:
        """Post on a connection that is free; None where one has to be made, which is `send`'s to do."""
        connection = self._newest_free()
        return None if connection is None else self._send_on(connection, self._request("POST", path, body, request_id))

    def _send_on(self, connection: _Connection, request: bytes) -> Call:
        call = Call(connection, self._timeout_s)
        connection.send(call, request)
        if self._sweeping is None:
            self._sweeping = connection.loop.call_later(self._sweep_s, self._sweep)
        return call

    def _sweep(self) -> None:
        """Expire the calls whose time is over: one timer for all, since a timer for each would cost each."""
        now = time.monotonic()
        running = [connection.call for connection in self._all if connection.call is not None]
        for call in running:
            if call.deadline <= now:
                call.expire()
        self._sweeping = asyncio.get_running_loop().call_later(self._sweep_s, self._sweep) if running else None

    def _request(self, method: str, path: str, body: bytes, request_id: str) -> bytes:
        beginning = self._beginnings.get((method, path)) or self._beginning(method, path)
        if not body and method != "POST":
            return b"%b%b\r\n\r\n" % (beginning, request_id.encode())
        whole = b"%b%b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
        return whole % (beginning, request_id.encode(), len(body), body)

    def _beginning(self, method: str, path: str) -> bytes:
        """All that requests on a path have in common."""
        beginning = f"{method} {path}{self._constant}X-Request-Id: ".encode("latin-1")
        # A path with an id in it comes once.
        if method == "POST" and len(self._beginnings) < _MOST_BEGINNINGS:
            self._beginnings[method, path] = beginning
        return beginning

    def _newest_free(self) -> _Connection | None:
        stale = time.monotonic() - KEEPALIVE_S
        while self._free:
            connection = self._free.pop()
            if connection.is_quiet and connection.idle_since > stale:
                return connection
            connection.cut()
        return None

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                _, connection = await loop.create_connection(
                    lambda: _Connection(self), self._host, self._port, ssl=self._ssl
                )
        except (OSError, TimeoutError) as error:
            raise NotConnected(str(error) or type(error).__name__) from error
        self._all.add(connection)
        return connection

    def keep(self, connection: _Connection) -> None:
        """Take a connection back that is free for the next call."""
        connection.idle_since = time.monotonic()
        self._free.append(connection)
        # The oldest ones of a burst that is over go first.
        while self._free and self._free[0].idle_since < connection.idle_since - KEEPALIVE_S:
            self._free.popleft().cut()

    def forget(self, connection: _Connection) -> None:
        """Drop a connection that is closed."""
        self._all.discard(connection)
        if connection in self._free:
            self._free.remove(connection)

    async def close(self) -> None:
        """Close every connection; calls that run are broken off."""
        if self._sweeping is not None:
            self._sweeping.cancel()
        for connection in list(self._all):
            connection.break_off("gaiad is stopping")
        self._free.clear()
