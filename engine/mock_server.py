"""The inside of the mock exchange: its socket, its connections, its clock and what it does wrong. Lives on one loop."""

from __future__ import annotations

import asyncio
import hmac
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from websockets.datastructures import Headers
from websockets.http11 import Request

from engine.mock_connection import CLOSE_TIMEOUT_S, MockConnection, reset_at_close
from engine.mock_faults import (
    BAD_FRAMES,
    STATUS,
    BadFrame,
    Fault,
    FaultOptions,
    Phase,
    Share,
    fault_options,
    malformed,
    padded,
)
from engine.mock_market import Market, Tick
from engine.mock_requests import answer, decoded
from transport.errors import ConfigError, HeliographError
from transport.listener import bind

HOST = "127.0.0.1"
KEPT = 100_000  # entries of `sent`, `requests` and `handshakes` each, the newest
TURN_TICKS = 1_000  # made in one turn of the loop, however far behind the clock the play is
SHORTEST_TURN_S = 0.002
ACCEPTED_AT_ONCE = 64
BACKLOG = 128
_PAGE = "<!doctype html><title>Not a WebSocket</title>"


class Handshake(NamedTuple):
    """A request for a WebSocket; ``connection`` is its number, ``headers`` are found in any case."""

    connection: int
    path: str
    headers: Headers


class Received(NamedTuple):
    """A message of a client: decoded, or its text where it is no JSON."""

    connection: int
    message: Any


class Sent(NamedTuple):
    """A message sent to a client; a huge one is noted without its padding."""

    connection: int
    text: str


class MockServer:
    """Everything here runs on the loop that called :meth:`start`; before that and after :meth:`stop` on any thread.

    Attributes:
        loop: none while it does not serve.
        resume, token, rate: as :class:`engine.mock_exchange.MockExchange` says.
        attempts: TCP connections so far.
        on_change: called after everything that happens.
    """

    def __init__(
        self, port: int, symbols: Sequence[str], rate: float, resume: bool, token: str | None, seed: int
    ) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self.market = Market(symbols, seed)
        self.resume, self.token, self.rate = resume, token, rate
        self.fault, self.options = Fault.NONE, FaultOptions()
        self.attempts = 0
        self.handshakes: deque[Handshake] = deque(maxlen=KEPT)
        self.requests: deque[Received] = deque(maxlen=KEPT)
        self.sent: deque[Sent] = deque(maxlen=KEPT)
        self.on_change: Callable[[], None] = lambda: None
        self._wanted_port = port
        self._reserved: socket.socket | None = None  # holds the port while nobody listens
        self._listening: socket.socket | None = None
        self._accepting: set[asyncio.Task[Any]] = set()
        self._connections: dict[int, MockConnection] = {}
        self._share = Share()
        self._bad_turn = 0
        self._script: Iterator[Phase] = iter(())
        self._script_timer: asyncio.TimerHandle | None = None
        self._tick_timer: asyncio.TimerHandle | None = None
        self._played_from = (0.0, 0)  # loop time, and the ticks of the clock since then

    @property
    def port(self) -> int:
        """The bound port; valid while serving."""
        if self._reserved is None:
            raise HeliographError("the exchange is not serving")
        return int(self._reserved.getsockname()[1])

    @property
    def playing(self) -> bool:
        """Whether a script is not at its end."""
        return self._script_timer is not None

    # life ------------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Take the port and serve; :class:`ConfigError` where it is taken. After an error call :meth:`stop`."""
        try:
            if self._wanted_port:
                bind(HOST, self._wanted_port, reuse_port=False).close()  # sharing the port is for ourselves
            self._reserved = bind(HOST, self._wanted_port)
        except HeliographError as error:
            raise ConfigError(str(error), "port") from None
        self.loop = asyncio.get_running_loop()
        self._turn_to(self.fault, self.options)
        self.start_clock(self.rate)

    async def stop(self) -> None:
        """Close everything: with 1001 where that can be done, and after ``CLOSE_TIMEOUT_S`` without asking."""
        if self.loop is None:
            return
        self._end_script()
        if self._tick_timer is not None:
            self._tick_timer.cancel()
            self._tick_timer = None
        self._stop_listening()
        if self._accepting:
            await asyncio.wait(self._accepting)
        await self._end_all()
        if self._reserved is not None:
            self._reserved.close()
        self._reserved = self.loop = None

    async def _end_all(self) -> None:
        connections = list(self._connections.values())
        if not connections:
            return
        polite = self.fault not in (Fault.DEAD, Fault.SLOW)
        for connection in connections:
            if polite and connection.open and not connection.mute:
                connection.close(1001)
            else:
                connection.kill()
        await asyncio.wait([connection.lost for connection in connections], timeout=CLOSE_TIMEOUT_S)
        for connection in connections:
            connection.kill()
        await asyncio.wait([connection.lost for connection in connections])

    def _listen(self) -> None:
        if self._listening is None:
            assert self.loop is not None
            self._listening = bind(HOST, self.port)
            self._listening.listen(BACKLOG)
            self.loop.add_reader(self._listening, self._accept)

    def _stop_listening(self) -> None:
        if self._listening is not None:
            assert self.loop is not None
            self.loop.remove_reader(self._listening)
            self._listening.close()
            self._listening = None

    def _accept(self) -> None:
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                assert self._listening is not None
                sock, _ = self._listening.accept()
            except OSError:  # nobody more, or gone before we looked
                break
            self.attempts += 1
            if self.fault is Fault.RESET:
                reset_at_close(sock)
                sock.close()
                continue
            sock.setblocking(False)
            connection = MockConnection(self, self.attempts)
            self._connections[connection.number] = connection
            task = asyncio.ensure_future(self._adopt(connection, sock))
            self._accepting.add(task)
            task.add_done_callback(self._accepting.discard)
        self.on_change()

    async def _adopt(self, connection: MockConnection, sock: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, sock)
        except OSError as error:
            sock.close()
            connection.connection_lost(error)
        if self.fault is Fault.REFUSE:  # since it was accepted
            connection.kill()

    # connections -----------------------------------------------------------------------------------------------------

    def on_request(self, connection: MockConnection, request: Request) -> None:
        """A handshake; part of :class:`engine.mock_connection.Owner`."""
        self.handshakes.append(Handshake(connection.number, request.path, request.headers))
        fault, options = self.fault, self.options
        if fault is Fault.SLOW_HANDSHAKE:
            connection.call_later(options.delay, lambda: self._answer(connection, request))
        elif fault in STATUS:
            headers = {}
            if fault in (Fault.THROTTLED, Fault.UNAVAILABLE) and options.retry_after is not None:
                after = options.retry_after
                headers["Retry-After"] = after if isinstance(after, str) else f"{after:g}"
            if fault is Fault.NOT_WEBSOCKET:
                headers["Content-Type"] = "text/html"
            body = _PAGE if fault is Fault.NOT_WEBSOCKET else f"{fault.value}\n"
            connection.refuse(STATUS[fault], body, headers)
        elif fault is not Fault.HANG:
            self._answer(connection, request)
        self.on_change()

    def _answer(self, connection: MockConnection, request: Request) -> None:
        given = ",".join(request.headers.get_all("Authorization"))
        if self.token is not None and not hmac.compare_digest(
            given.encode(errors="surrogateescape"), f"Bearer {self.token}".encode()
        ):
            connection.refuse(401, "no valid token\n", {"WWW-Authenticate": "Bearer"})
        elif connection.accept():
            self._show(connection)
        self.on_change()

    def on_message(self, connection: MockConnection, raw: bytes) -> None:
        """A request; part of :class:`engine.mock_connection.Owner`."""
        self.requests.append(Received(connection.number, decoded(raw)))
        for text in answer(raw, self.market, connection.subscribed, self.resume):
            if self.fault is not Fault.SILENT:
                self.say(connection, text)
        self.on_change()

    def on_lost(self, connection: MockConnection) -> None:
        """Part of :class:`engine.mock_connection.Owner`."""
        self._connections.pop(connection.number, None)
        self.on_change()

    def open(self) -> list[MockConnection]:
        """The connections whose WebSocket is open."""
        return [connection for connection in self._connections.values() if connection.open]

    def say(self, connection: MockConnection, text: str, pad_to: int = 0) -> bool:
        """Send one message; whether it was sent."""
        sent = connection.send(padded(text, pad_to) if pad_to else text)
        if sent:
            self.sent.append(Sent(connection.number, text))
        return sent

    # faults ----------------------------------------------------------------------------------------------------------

    def inject(self, fault: Fault, options: FaultOptions) -> None:
        """Do this wrong from now on."""
        self._end_script()
        self._turn_to(fault, options)

    def play(self, script: Iterator[Phase]) -> None:
        """Go through a script, and then do nothing wrong."""
        self._end_script()
        self._script = script
        self._next_phase()

    def _turn_to(self, fault: Fault, options: FaultOptions) -> None:
        self.fault, self.options = fault, options
        self._share = Share()
        if self.loop is None:  # begins with it
            return
        if fault is Fault.REFUSE:
            self._stop_listening()
        else:
            self._listen()
        for connection in list(self._connections.values()):
            connection.had_huge = False
            connection.freeze(False)
            connection.pace(None)
        self.end_connections(fault, options)
        for connection in self.open():
            self._show(connection)
        self.on_change()

    def end_connections(self, fault: Fault, options: FaultOptions) -> None:
        """End those that there are, in the way of this fault; other faults end none."""
        for connection in list(self._connections.values()):
            if fault is Fault.RESET:
                connection.reset()
            elif fault is Fault.DISCONNECT:
                connection.close(options.close_code, options.close_reason)
            elif fault in (Fault.ABORT, Fault.REFUSE):
                connection.end_stream()
        self.on_change()

    def _show(self, connection: MockConnection) -> None:
        """The fault, to an open connection."""
        fault, options = self.fault, self.options
        if fault is Fault.DISCONNECT:
            connection.close(options.close_code, options.close_reason)
        elif fault is Fault.ABORT:
            connection.end_stream()
        elif fault is Fault.DEAD:
            connection.freeze(True)
        elif fault is Fault.FRAGMENTED:
            connection.pace(0)
        elif fault is Fault.SLOW:
            connection.pace(options.bytes_per_second)
        elif fault is Fault.BAD_FRAMES and not connection.mute:
            kinds = list(BadFrame)
            connection.send_raw(BAD_FRAMES[options.bad_frame or kinds[self._bad_turn % len(kinds)]])
            self._bad_turn += 1
            connection.mute = True

    def _next_phase(self) -> None:
        assert self.loop is not None
        phase = next(self._script, None)
        if phase is None:
            self._script_timer = None
            self._turn_to(Fault.NONE, FaultOptions())
        else:
            self._script_timer = self.loop.call_later(phase.seconds, self._next_phase)
            self._turn_to(phase.fault, fault_options(phase.options))

    def _end_script(self) -> None:
        if self._script_timer is not None:
            self._script_timer.cancel()
            self._script_timer = None

    # ticks -----------------------------------------------------------------------------------------------------------

    def restart(self) -> None:
        """Connections end (1012), numbers begin at 1, the history is empty."""
        self.end_connections(Fault.DISCONNECT, FaultOptions(close_code=1012))
        self.market.restart()

    def start_clock(self, rate: float) -> None:
        """Ticks per second from now on; 0: none."""
        self.rate = rate
        if self._tick_timer is not None:
            self._tick_timer.cancel()
            self._tick_timer = None
        if self.loop is not None and self.rate > 0:
            self._played_from = (self.loop.time(), 0)
            self._tick_timer = self.loop.call_later(1 / self.rate, self._run_clock)

    def _run_clock(self) -> None:
        assert self.loop is not None
        start, made = self._played_from
        due = min(int((self.loop.time() - start) * self.rate) - made, TURN_TICKS)
        for _ in range(due):
            self.make_tick(None)
        self._played_from = (start, made + max(0, due))
        next_at = start + (made + max(0, due) + 1) / self.rate
        self._tick_timer = self.loop.call_later(max(SHORTEST_TURN_S, next_at - self.loop.time()), self._run_clock)

    def make_tick(self, symbol: str | None) -> Tick:
        """One more tick, of this symbol or of the one whose turn it is."""
        tick = self.market.tick(time.time_ns() // 1_000_000, symbol)
        fault, options = self.fault, self.options
        texts = [tick.text]
        if fault in (Fault.SILENT, Fault.DEAD) or (fault is Fault.GAPS and self._share.take(options.share)):
            texts = []
        elif fault is Fault.DUPLICATES and self._share.take(options.share):
            texts *= 2
        elif fault is Fault.MALFORMED:
            texts = self._malformed(tick.text, options.share)
        for connection in self.open():
            if tick.symbol in connection.subscribed:
                for text in texts:
                    huge = fault is Fault.HUGE and not connection.had_huge
                    connection.had_huge |= huge
                    self.say(connection, text, options.size if huge else 0)
        self.on_change()
        return tick

    def _malformed(self, text: str, share: float) -> list[str]:
        bad = 1 if share == 1 else self._share.take(share / (1 - share))  # bad ones to a good one
        texts = [malformed(text, self._bad_turn + i).text for i in range(bad)]
        self._bad_turn += bad
        return texts if share == 1 else [*texts, text]
