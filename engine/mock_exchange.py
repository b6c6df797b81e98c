"""The mock exchange: a real WebSocket server on loopback that does wrong what a test tells it to.

    async with MockExchange(rate=100) as exchange:
        ...                                    # connect to exchange.url, or give exchange.feed_config() to an Engine
        exchange.fault = Fault.RESET           # at once
        exchange.inject(Fault.DISCONNECT, close_code=1012)
        exchange.during(Fault.REFUSE, 0.5)     # and then Fault.NONE

    with MockExchange.threaded() as exchange:  # for tests without a loop: the same, with blocking waits
        ...

Client to server, one JSON map a message::

    {"method":"SUBSCRIBE","params":["BTC-USD"],"id":1}                        -> {"result":null,"id":1}
    {"method":"UNSUBSCRIBE","params":["*"],"id":2}                            -> {"result":null,"id":2}
    {"method":"RESUME","params":{"symbol":"BTC-USD","since":41},"id":3}       -> {"result":null,"id":3}
    {"method":"PING"}                                                         -> {"method":"PONG"}

``"*"`` stands for every symbol. ``RESUME`` (with ``resume=True``) sends the symbol's ticks after number 41 and
subscribes to it, without hole or repetition. What cannot be done is answered ``{"error":{"code":2,"msg":…},"id":…}``.
Server to client, ``T`` in Unix milliseconds, ``n`` counted per symbol from 1::

    {"e":"tick","s":"BTC-USD","p":"68900.12345678","q":"0.01000000","T":1700000000000,"n":1}

Ticks happen by the clock, or by :meth:`MockExchange.tick` where ``rate`` is 0, whether anybody listens or not: who was
away sees by the numbers what it missed.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from itertools import chain, repeat
from typing import Any, Self, TypeVar

from engine.loop_thread import LoopThread, call_in_loop
from engine.mock_faults import Fault, FaultOptions, Phase, fault_options
from engine.mock_market import Tick
from engine.mock_server import HOST, Handshake, MockServer, Received, Sent
from transport.errors import ConfigError, HeliographError

WAIT_TIMEOUT_S = 5.0
START_TIMEOUT_S = 5.0
STOP_TIMEOUT_S = 5.0
CALL_TIMEOUT_S = 5.0  # for the exchange's thread to do what another one asks
MAX_RATE = 100_000
_NOT_SERVING = "the exchange is not serving"

T = TypeVar("T")


class _Exchange:
    """What both kinds have. Everything public may be used from any thread; it takes effect before it returns.

    Args:
        port: 0 picks one.
        symbols: what it trades.
        rate: ticks per second over all symbols; 0: only :meth:`tick` makes them.
        resume: whether ``RESUME`` is understood.
        token: connections without ``Authorization: Bearer TOKEN`` get 401; none: all are welcome.
        seed: of prices and quantities.

    Raises:
        ConfigError: an argument cannot be used, or the port is taken (when the exchange starts).
    """

    def __init__(
        self,
        port: int = 0,
        symbols: Sequence[str] = ("BTC-USD", "ETH-USD"),
        rate: float = 100.0,
        resume: bool = False,
        token: str | None = None,
        seed: int = 0,
    ) -> None:
        self._server = MockServer(port, symbols, _checked_rate(rate), resume, token, seed)
        self._server.on_change = self._look_at_waiters
        self._thread: int | None = None
        self._waiters: dict[asyncio.Future[None], Callable[[], object]] = {}

    # what it is and what it saw --------------------------------------------------------------------------------------

    @property
    def port(self) -> int:
        """The bound port; valid while serving."""
        return self._server.port

    @property
    def url(self) -> str:
        """Where clients connect; valid while serving."""
        return f"ws://{HOST}:{self.port}/ws"

    @property
    def symbols(self) -> tuple[str, ...]:
        """What it trades."""
        return self._server.market.symbols

    @property
    def ticks(self) -> dict[str, int]:
        """The last number of each symbol."""
        return self._now(lambda: dict(self._server.market.last))

    @property
    def attempts(self) -> int:
        """TCP connections so far; while it refuses, nobody sees them."""
        return self._now(lambda: self._server.attempts)

    @property
    def connections(self) -> int:
        """WebSockets that are open now."""
        return self._now(lambda: len(self._server.open()))

    @property
    def handshakes(self) -> list[Handshake]:
        """All requests for a WebSocket, in order; also those that were refused."""
        return self._now(lambda: list(self._server.handshakes))

    @property
    def requests(self) -> list[Received]:
        """All messages of clients, in order."""
        return self._now(lambda: list(self._server.requests))

    @property
    def sent(self) -> list[Sent]:
        """All messages to clients, in order; bad frames are none."""
        return self._now(lambda: list(self._server.sent))

    def feed_config(self, name: str = "mock", **more: Any) -> dict[str, dict[str, Any]]:
        """The table ``feeds`` with one feed that reads all symbols of this exchange: ``Engine(feeds=…)``.

        It comes back quickly: backoff and breaker wait for tenths of a second, so that no test has to wait for long.

        Args:
            more: fields of ``[feeds.NAME]`` besides, or instead of, those it has.
        """
        feed: dict[str, Any] = {
            "url": self.url,
            "subscribe": [{"method": "SUBSCRIBE", "params": list(self.symbols), "id": 1}],
            "backoff_initial": 0.02,
            "backoff_max": 0.2,
            "breaker_open": 0.1,
            "breaker_open_max": 0.5,
            "map": {
                "topic": "price.{symbol}",
                "type": "price_update",
                "key": "s",
                "time": "T",
                "time_unit": "ms",
                "sequence": "n",
                "data": {"price": "p", "quantity": "q"},
                "types": {"price": "number", "quantity": "number"},
                "filter": {"e": "tick"},
            },
        }
        if self._server.resume:
            feed["resume"] = [{"method": "RESUME", "params": {"symbol": "{counter}", "since": "{number}"}}]
        if self.token is not None:
            feed["token"] = self.token
        return {name: feed | more}

    # what a test does with it ----------------------------------------------------------------------------------------

    @property
    def fault(self) -> Fault:
        """What it does wrong. Setting it takes the default options and ends a script."""
        return self._server.fault

    @fault.setter
    def fault(self, fault: Fault) -> None:
        self.inject(fault)

    def inject(self, fault: Fault, **options: Any) -> None:
        """Do this wrong from now on; ``options`` are :class:`engine.mock_faults.FaultOptions`. Ends a script."""
        chosen, checked = Fault(fault), fault_options(options)
        self._now(lambda: self._server.inject(chosen, checked))

    def during(self, fault: Fault, seconds: float, **options: Any) -> None:
        """Do this wrong for so long, and then nothing. Returns at once."""
        self.play([Phase(fault, seconds, options)])

    def play(self, phases: Sequence[Phase], loop: bool = False) -> None:
        """Go through a script, and then do nothing wrong; with ``loop`` begin anew. Returns at once."""
        for phase in phases:
            fault_options(phase.options)
            if not phase.seconds >= 0 or (loop and phase.seconds == 0):
                raise ConfigError(f"0 or more, in a loop more, not {phase.seconds:g}", "seconds")
        if self._server.loop is None:
            raise HeliographError(_NOT_SERVING)
        script = chain.from_iterable(repeat(tuple(phases))) if loop and phases else iter(tuple(phases))
        self._now(lambda: self._server.play(script))

    @property
    def playing(self) -> bool:
        """Whether a script is not at its end."""
        return self._server.playing

    @property
    def token(self) -> str | None:
        """What a new connection must carry; open ones stay."""
        return self._server.token

    @token.setter
    def token(self, token: str | None) -> None:
        self._server.token = token

    @property
    def rate(self) -> float:
        """Ticks per second over all symbols."""
        return self._server.rate

    @rate.setter
    def rate(self, rate: float) -> None:
        checked = _checked_rate(rate)
        self._now(lambda: self._server.start_clock(checked))

    def tick(self, count: int = 1, symbol: str | None = None) -> list[Tick]:
        """Let so many ticks happen now, of the symbols in turn or of one; returns them, sent or not."""
        if symbol is not None and symbol not in self.symbols:
            raise ConfigError(f"{symbol!r} is not traded; known: {', '.join(self.symbols)}", "symbol")
        return self._now(lambda: [self._server.make_tick(symbol) for _ in range(count)])

    def send(self, text: str) -> int:
        """Send this to every open connection as it is; returns to how many."""
        return self._now(lambda: sum(self._server.say(connection, text) for connection in self._server.open()))

    def disconnect(self, code: int | None = 1001, reason: str = "") -> None:
        """Close all connections once; new ones are served."""
        checked = FaultOptions(close_code=code, close_reason=reason)
        self._now(lambda: self._server.end_connections(Fault.DISCONNECT, checked))

    def reset(self) -> None:
        """RST for all connections once."""
        self._now(lambda: self._server.end_connections(Fault.RESET, FaultOptions()))

    def abort(self) -> None:
        """End all connections once without a close frame."""
        self._now(lambda: self._server.end_connections(Fault.ABORT, FaultOptions()))

    def restart(self) -> None:
        """As if the exchange had been started anew: connections end (1012), numbers begin at 1, no history."""
        self._now(self._server.restart)

    # threads ---------------------------------------------------------------------------------------------------------

    def _now(self, work: Callable[[], T]) -> T:
        """Run on the loop's thread; directly where that is this one or nothing runs."""
        loop = self._server.loop
        if loop is None or threading.get_ident() == self._thread:
            return work()
        return call_in_loop(loop, work, CALL_TIMEOUT_S)

    async def _start(self) -> None:
        if self._server.loop is not None:
            raise HeliographError("the exchange is serving already")
        self._thread = threading.get_ident()
        try:
            self._server.start()
        except BaseException:
            await self._server.stop()
            raise

    async def _stop(self) -> None:
        await self._server.stop()
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(HeliographError("the exchange was stopped meanwhile"))

    async def _wait(self, condition: Callable[[], object], seconds: float, what: str) -> None:
        if condition():
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = condition
        try:
            async with asyncio.timeout(seconds):
                await waiter
        except TimeoutError:
            raise TimeoutError(
                f"not within {seconds:g} s: {what}; the exchange has {self.connections} open connections, saw "
                f"{self.attempts} attempts, {len(self.handshakes)} handshakes and {len(self.requests)} requests, "
                f"and its fault is {self.fault.value}"
            ) from None
        finally:
            del self._waiters[waiter]

    def _look_at_waiters(self) -> None:
        for waiter, condition in list(self._waiters.items()):
            if not waiter.done():
                try:
                    if condition():
                        waiter.set_result(None)
                except Exception as error:
                    waiter.set_exception(error)

    # waiting, in words that both kinds share -------------------------------------------------------------------------

    def _until_connected(self, count: int, seconds: float) -> Coroutine[Any, Any, None]:
        return self._wait(lambda: self.connections >= count, seconds, f"{count} connected")

    def _until_disconnected(self, seconds: float) -> Coroutine[Any, Any, None]:
        return self._wait(lambda: not self.connections, seconds, "nobody connected")

    async def _until_request(self, method: str | None, count: int, seconds: float) -> Received:
        found = self._requested(method)
        if len(found) < count:
            what = f"{count} × {method or 'a request'}"
            await self._wait(lambda: len(self._requested(method)) >= count, seconds, what)
            found = self._requested(method)
        return found[count - 1]

    def _requested(self, method: str | None) -> list[Received]:
        return [
            received
            for received in self._server.requests
            if method is None or (isinstance(received.message, dict) and received.message.get("method") == method)
        ]


class MockExchange(_Exchange):
    """On the running loop, from ``async with`` to its end."""

    async def __aenter__(self) -> Self:
        await self._start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stop()

    async def wait_connected(self, count: int = 1, timeout: float = WAIT_TIMEOUT_S) -> None:  # noqa: ASYNC109
        """Until so many WebSockets are open, or more; :class:`TimeoutError` after ``timeout`` seconds."""
        await self._until_connected(count, timeout)

    async def wait_disconnected(self, timeout: float = WAIT_TIMEOUT_S) -> None:  # noqa: ASYNC109
        """Until no WebSocket is open."""
        await self._until_disconnected(timeout)

    async def wait_request(
        self,
        method: str | None = None,
        count: int = 1,
        timeout: float = WAIT_TIMEOUT_S,  # noqa: ASYNC109
    ) -> Received:
        """The ``count``-th request with this method, or of any, since the exchange began."""
        return await self._until_request(method, count, timeout)

    async def wait_until(
        self,
        condition: Callable[[Self], object],
        timeout: float = WAIT_TIMEOUT_S,  # noqa: ASYNC109
    ) -> None:
        """Until ``condition(exchange)``, looked at after everything that happens to the exchange."""
        await self._wait(lambda: condition(self), timeout, "the condition")

    @staticmethod
    def threaded(**arguments: Any) -> ThreadedMockExchange:
        """The same for code without a loop; takes the same arguments."""
        return ThreadedMockExchange(**arguments)


class ThreadedMockExchange(_Exchange):
    """``with MockExchange.threaded() as exchange``: in a thread of its own, and its waits block."""

    _runner: LoopThread[None] | None = None

    def __enter__(self) -> Self:
        if self._runner is not None:
            raise HeliographError("the exchange is serving already")
        self._runner = LoopThread("heliograph-mock-exchange", self._serving)
        try:
            self._runner.start(START_TIMEOUT_S)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        runner, self._runner = self._runner, None
        if runner is not None:
            runner.stop(STOP_TIMEOUT_S)

    @asynccontextmanager
    async def _serving(self) -> AsyncIterator[None]:
        await self._start()
        try:
            yield
        finally:
            await self._stop()

    def wait_connected(self, count: int = 1, timeout: float = WAIT_TIMEOUT_S) -> None:
        """As :meth:`MockExchange.wait_connected`."""
        self._block(self._until_connected(count, timeout))

    def wait_disconnected(self, timeout: float = WAIT_TIMEOUT_S) -> None:
        """As :meth:`MockExchange.wait_disconnected`."""
        self._block(self._until_disconnected(timeout))

    def wait_request(self, method: str | None = None, count: int = 1, timeout: float = WAIT_TIMEOUT_S) -> Received:
        """As :meth:`MockExchange.wait_request`."""
        return self._block(self._until_request(method, count, timeout))

    def wait_until(self, condition: Callable[[Self], object], timeout: float = WAIT_TIMEOUT_S) -> None:
        """As :meth:`MockExchange.wait_until`; the condition runs in the exchange's thread."""
        self._block(self._wait(lambda: condition(self), timeout, "the condition"))

    def _block(self, work: Coroutine[Any, Any, T]) -> T:
        if self._runner is None:
            work.close()
            raise HeliographError(_NOT_SERVING)
        return self._runner.run(work)


def _checked_rate(rate: float) -> float:
    if not 0 <= rate <= MAX_RATE:
        raise ConfigError(f"0 to {MAX_RATE:,} ticks per second, not {rate:g}", "rate")
    return rate
