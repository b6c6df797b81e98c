"""The replay exchange: a real WebSocket server that plays recorded ticks in the manner of an exchange stream.

Client to server, one JSON map a message (the form is Binance's)::

    {"method":"SUBSCRIBE","params":["EUR_USD"],"id":1}      -> {"result":null,"id":1}
    {"method":"UNSUBSCRIBE","params":["*"],"id":2}          -> {"result":null,"id":2}
    {"method":"LIST_SUBSCRIPTIONS","id":3}                  -> {"result":["EUR_USD"],"id":3}

``"*"`` stands for every instrument. What cannot be done is answered ``{"error":{"code":2,"msg":…},"id":…}`` and the
connection goes on. Server to client, prices as text with the digits of the recording::

    {"stream":"EUR_USD@tick","data":{"e":"tick","s":"EUR_USD","b":"1.121200","a":"1.121720","T":…,"E":…,"n":1}}
    {"stream":"XBT_USDT@trade","data":{"e":"trade","s":"XBT_USDT","t":"10218208","p":"105433.60000","q":"0.00027625",
     "side":"buy","T":…,"E":…,"n":1}}

``T`` is the record's own time and ``E`` the time of sending, both Unix milliseconds; ``n`` counts per instrument from
1, so that a client sees what it missed. There is one play for all clients: who subscribes joins it where it is. It
stands still while nobody is subscribed. A client that does not read loses its connection at ``WRITE_LIMIT_BYTES``.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, cast

import msgspec
from websockets.asyncio.server import Server, ServerConnection, broadcast
from websockets.asyncio.server import serve as serve_websocket
from websockets.exceptions import ConnectionClosed

from engine.recording import DEMO_PACE, Instrument, Pace, Quote, Record, instruments, merge
from transport.errors import ConfigError

WRITE_LIMIT_BYTES = 1 << 20  # unsent bytes to one client
REQUEST_BYTES = 64 << 10
MAX_PARAMS = 1_000
CLOSE_TIMEOUT_S = 2.0
TURN_RECORDS = 256  # records sent before other tasks of the loop get their turn, however far behind the play is
DEFAULT_PORT = 8767
ALL = "*"
_BAD_REQUEST = 2  # Binance's code for a request that is invalid

_log = logging.getLogger(__name__)
_socket_log = _log.getChild("websocket")
_socket_log.setLevel(logging.WARNING)  # one line when the exchange starts is enough


class _Request(msgspec.Struct):
    method: Literal["SUBSCRIBE", "UNSUBSCRIBE", "LIST_SUBSCRIPTIONS"]
    params: list[str] = []
    id: int | str | None = None


_requests = msgspec.json.Decoder(_Request)


class Refusal(Exception):
    """A request that the exchange answers with an error."""


class Subscribers:
    """Who gets which instrument: pure, two-way. Finding the subscribers of an instrument is one look-up."""

    def __init__(self, symbols: Iterable[str]) -> None:
        self._of: dict[str, set[ServerConnection]] = {symbol: set() for symbol in symbols}

    def __bool__(self) -> bool:
        return any(self._of.values())

    def of(self, symbol: str) -> set[ServerConnection]:
        """The live set; it changes with the next subscription."""
        return self._of[symbol]

    def symbols_of(self, connection: ServerConnection) -> list[str]:
        """What a connection subscribed to, sorted."""
        return sorted(symbol for symbol, connections in self._of.items() if connection in connections)

    def add(self, connection: ServerConnection, params: Sequence[str]) -> None:
        """All of ``params`` or, with an unknown one, none: :class:`Refusal`."""
        for symbol in self._resolve(params):
            self._of[symbol].add(connection)

    def remove(self, connection: ServerConnection, params: Sequence[str]) -> None:
        """As :meth:`add`; what is not subscribed is no error."""
        for symbol in self._resolve(params):
            self._of[symbol].discard(connection)

    def _resolve(self, params: Sequence[str]) -> list[str]:
        if not params:
            raise Refusal(f'params: name instruments of {", ".join(self._of)} or "{ALL}"')
        if len(params) > MAX_PARAMS:
            raise Refusal(f"params: at most {MAX_PARAMS} in a request, not {len(params)}")
        if ALL in params:
            return list(self._of)
        for i, symbol in enumerate(params):
            if symbol not in self._of:
                raise Refusal(f"params[{i}]: unknown instrument {symbol[:40]!r}; known: {', '.join(self._of)}")
        return list(params)


def message_of(record: Record, sequence: int, now_ms: int) -> bytes:
    """The stream message of a record; ``sequence`` and ``now_ms`` are its ``n`` and ``E``."""
    common = {"T": record.time_ms, "E": now_ms, "n": sequence}
    if isinstance(record, Quote):
        stream, data = "tick", {"e": "tick", "s": record.symbol, "b": record.bid, "a": record.ask, **common}
    else:
        what = {"t": record.trade_id, "p": record.price, "q": record.quantity, "side": record.side}
        stream, data = "trade", {"e": "trade", "s": record.symbol, **what, **common}
    return msgspec.json.encode({"stream": f"{record.symbol}@{stream}", "data": data})


class ReplayExchange:
    """Serves recordings at ``ws://host:port`` (any path) on the running loop, from ``async with`` to its end.

    Args:
        host: address to bind.
        port: 0 picks one; :attr:`port` tells it.
        pace: how fast to play; a number is recorded seconds per second, ``"demo"`` is :data:`DEMO_PACE`.
        loop: each instrument begins anew when its recording ends; otherwise the play ends, see :meth:`wait_ended`.
        play: what to play; none means the recordings that come with heliograph.

    Raises:
        ConfigError: a recording, the pace or the address cannot be used.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        pace: Pace | float | Literal["demo"] = 1.0,
        loop: bool = True,
        play: Sequence[Instrument] | Sequence[str | Path] = (),
    ) -> None:
        self.host = host
        self.pace = _pace(pace)
        self._wanted_port = port
        self._loop = loop
        self._instruments = _instruments(play)
        self._subscribers = Subscribers(instrument.symbol for instrument in self._instruments)
        self._anybody = asyncio.Event()
        self._server: Server | None = None
        self._player: asyncio.Task[None] | None = None
        self.sent = 0

    @property
    def symbols(self) -> list[str]:
        """The instruments that can be subscribed to."""
        return [instrument.symbol for instrument in self._instruments]

    @property
    def port(self) -> int:
        """The bound port; valid while serving."""
        assert self._server is not None, "the exchange is not serving"
        return cast(int, next(iter(self._server.sockets)).getsockname()[1])

    @property
    def url(self) -> str:
        """Where clients connect; valid while serving."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"ws://{host}:{self.port}/ws"

    @property
    def connections(self) -> int:
        """Clients connected now."""
        return len(self._server.connections) if self._server else 0

    async def __aenter__(self) -> Self:
        try:
            self._server = await serve_websocket(
                self._serve_client,
                self.host,
                self._wanted_port,
                compression=None,
                max_size=REQUEST_BYTES,
                close_timeout=CLOSE_TIMEOUT_S,
                server_header=None,
                logger=_socket_log,
            )
        except OSError as error:
            why = "is taken" if error.errno == errno.EADDRINUSE else f"cannot be bound: {error.strerror}"
            raise ConfigError(f"{self.host}:{self._wanted_port} {why}", "port") from None
        self._player = asyncio.create_task(self._play(), name="replay")
        self._player.add_done_callback(_report)
        _log.info("replay exchange plays %s at %s", ", ".join(self.symbols), self.url)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._player is not None:
            self._player.cancel()
            await asyncio.wait([self._player])  # what ended it is wait_ended()'s to raise
        if self._server is not None:
            self._server.close()  # 1001, going away
            await self._server.wait_closed()

    async def wait_ended(self) -> None:
        """Return when everything was played; never with ``loop``. Raises what ended the play early."""
        assert self._player is not None, "the exchange is not serving"
        await asyncio.shield(self._player)

    async def _serve_client(self, connection: ServerConnection) -> None:
        try:
            async for raw in connection:
                await connection.send(msgspec.json.encode(self._answer(connection, raw)), text=True)
        except ConnectionClosed:
            pass
        finally:
            self._subscribers.remove(connection, [ALL])
            self._note_subscribers()

    def _answer(self, connection: ServerConnection, raw: str | bytes) -> dict[str, Any]:
        request_id: int | str | None = None
        result: list[str] | None = None
        try:
            request_id = _id_of(raw)
            request = _requests.decode(raw)
            if request.method == "SUBSCRIBE":
                self._subscribers.add(connection, request.params)
            elif request.method == "UNSUBSCRIBE":
                self._subscribers.remove(connection, request.params)
            else:
                result = self._subscribers.symbols_of(connection)
        except (Refusal, msgspec.DecodeError, UnicodeDecodeError) as error:
            return {"error": {"code": _BAD_REQUEST, "msg": f"Invalid request: {error}"}, "id": request_id}
        finally:
            self._note_subscribers()
        return {"result": result, "id": request_id}

    def _note_subscribers(self) -> None:
        if self._subscribers:
            self._anybody.set()
        else:
            self._anybody.clear()

    async def _play(self) -> None:
        clock = asyncio.get_running_loop().time
        sequences = dict.fromkeys(self.symbols, 0)
        start = clock()
        in_turn = 0
        for due, record in merge(self._instruments, self.pace, loop=self._loop):
            wait = start + due - clock()
            if wait > 0:
                await asyncio.sleep(wait)
            elif in_turn >= TURN_RECORDS:
                await asyncio.sleep(0)
            in_turn = 0 if wait > 0 or in_turn >= TURN_RECORDS else in_turn + 1
            if not self._anybody.is_set():
                await self._anybody.wait()
                start = clock() - due  # the play stood still meanwhile
            sequences[record.symbol] += 1
            self._send(record, sequences[record.symbol])

    def _send(self, record: Record, sequence: int) -> None:
        connections = self._subscribers.of(record.symbol)
        for connection in connections:
            if connection.transport.get_write_buffer_size() > WRITE_LIMIT_BYTES:
                _log.warning("dropped a client that does not read: %s", connection.remote_address)
                connection.transport.abort()
        broadcast(connections, message_of(record, sequence, time.time_ns() // 1_000_000).decode())
        self.sent += 1


def _report(player: asyncio.Task[None]) -> None:
    if not player.cancelled() and player.exception():
        _log.error("the replay stopped: %s", player.exception())


def _id_of(raw: str | bytes) -> int | str | None:
    # The answer to a bad request carries its id too, where there is one to be read.
    try:
        request = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    found = request.get("id") if isinstance(request, dict) else None
    return found if isinstance(found, (int, str)) and not isinstance(found, bool) else None


def _pace(pace: Pace | float | str) -> Pace:
    if pace == "demo":
        return DEMO_PACE
    if not isinstance(pace, Pace):
        try:
            pace = Pace(float(pace))
        except ValueError:
            raise ConfigError(f'a number above 0 or "demo", not {pace!r}', "speed") from None
    if not 0 < pace.speed < float("inf"):
        raise ConfigError(f"must be above 0 and finite, not {pace.speed}", "speed")
    return pace


def _instruments(play: Sequence[Instrument] | Sequence[str | Path]) -> list[Instrument]:
    if play and isinstance(play[0], Instrument):
        return list(cast(Sequence[Instrument], play))
    return instruments(cast(Sequence[str | Path], play))


async def serve(
    files: Sequence[str | Path] = (),
    *,
    host: str = "127.0.0.1",
    port: int = DEFAULT_PORT,
    speed: float | Literal["demo"] = 1.0,
    loop: bool = False,
    on_ready: Callable[[ReplayExchange], None] = lambda exchange: None,
) -> None:
    """Play ``files`` (see :func:`engine.recording.instruments`) until they end, with ``loop`` until cancelled.

    Raises:
        ConfigError: a file, the speed or the address cannot be used; names it.
    """
    play = instruments(files)
    if files:  # a bad row is an error now, not in an hour
        for instrument in play:
            deque(instrument.records(), maxlen=0)
    async with ReplayExchange(host, port, pace=speed, loop=loop, play=play) as exchange:
        on_ready(exchange)
        await exchange.wait_ended()
