"""One WebSocket connection of a client to the engine: handshake, requests and their answers, messages in order."""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import ssl
from collections.abc import Callable
from typing import Any, Self, TypeVar

import msgspec
from websockets.asyncio.client import ClientConnection as WebSocket
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from transport.addresses import leads_here
from transport.client_messages import Bye, Message, Ok, Refusal, Welcome, decode
from transport.codes import CloseCode, ErrorCode
from transport.connector import QUIET, Connect
from transport.errors import CodecError, ConnectionLost, RequestError
from transport.requests import Request

MESSAGE_BYTES = 64 << 20  # largest message taken: a snapshot or history of many events is one message
CLOSE_TIMEOUT_S = 2.0
SUBPROTOCOL = "heliograph.v1.json"
_FINAL: dict[int, ErrorCode] = {
    CloseCode.POLICY: ErrorCode.FORBIDDEN,
    CloseCode.UNAUTHORIZED: ErrorCode.UNAUTHORIZED,
    CloseCode.KICKED: ErrorCode.FORBIDDEN,
}
_TOKEN = re.compile(r"[!-~]+")
_FINAL_HTTP = {401: ErrorCode.UNAUTHORIZED, 403: ErrorCode.FORBIDDEN}

AnswerT = TypeVar("AnswerT")
_log = logging.getLogger("heliograph.client")


class _Pending(msgspec.Struct):
    answer: asyncio.Future[Any]
    decoder: msgspec.json.Decoder[Any]
    on_answer: Callable[[Any], None] | None


def _nothing() -> None:
    pass


_decoders: dict[type, msgspec.json.Decoder[Any]] = {}


class ClientConnection:
    """From :meth:`open` to :attr:`closed`. All of it on one loop; one task at a time may :meth:`receive`."""

    def __init__(self, websocket: WebSocket) -> None:
        self.welcome = Welcome(protocol=0)
        self.bye: Bye | None = None
        self.received = 0
        self.on_request: Callable[[], None] = _nothing
        self.on_lost: Callable[[], None] = _nothing
        self._websocket = websocket
        self._pending: dict[int | str, _Pending] = {}
        self._ids = itertools.count(1)
        self._lost: ConnectionLost | None = None

    @classmethod
    async def open(cls, url: str, token: str | None, within_s: float, tls_ca_file: str | None = None) -> Self:
        """Connect and wait for the welcome, all within ``within_s`` seconds.

        Raises:
            ConnectionLost: nobody answers there, or not the protocol; trying again later may help.
            RequestError: refused for good; trying again without another token does not help.
        """
        try:
            async with asyncio.timeout(within_s):
                websocket = await _connect(url, token, tls_ca_file)
                connection = cls(websocket)
                try:
                    await connection._greet(url, bool(token))
                except BaseException:
                    await connection.close()
                    raise
                return connection
        except TimeoutError:
            raise ConnectionLost(f"{url}: no answer within {within_s:g} s") from None

    async def _greet(self, url: str, token: bool) -> None:
        try:
            message = await self.receive()
            while not isinstance(message, Welcome):
                message = await self.receive()
            if message.auth_within is not None:
                if not token:
                    raise RequestError(ErrorCode.UNAUTHORIZED, f"{url} wants a token")
                while True:  # ours was refused: what follows is `bye`
                    await self.receive()
        except ConnectionLost:
            if (refusal := self.refusal()) is not None:
                raise refusal from None
            raise
        if message.protocol != 1:
            raise RequestError(ErrorCode.UNSUPPORTED, f"{url} speaks protocol {message.protocol}, this client speaks 1")
        self.welcome = message

    @property
    def quiet(self) -> bool:
        """Open, and no answer awaited: nobody is hurt when reading stops for a while."""
        return self._lost is None and not self._pending

    def refusal(self) -> RequestError | None:
        """After the end: why coming back unchanged is no use, ``None`` where it is."""
        code = self.bye.code if self.bye is not None else self._websocket.close_code
        final = _FINAL.get(code or 0)
        if final is None and self.bye is not None and not self.bye.reconnect:
            final = ErrorCode.FORBIDDEN
        return RequestError(final, f"the engine closed the connection: {self._why()}") if final else None

    async def receive(self) -> Message:
        """The next message; answers go to who asked and notices that this client does not know are skipped.

        Raises:
            ConnectionLost: the connection is over, and everything in flight with it.
        """
        while True:
            try:
                raw = await self._websocket.recv(decode=False)
            except ConnectionClosed:
                raise self.drop(f"the connection was lost: {self._why()}") from None
            self.received += 1
            try:
                message = decode(raw)
                if isinstance(message, Ok):
                    self._answered(message.id, raw)
                elif isinstance(message, Refusal):
                    self._refused(message)
                elif message is not None:
                    if isinstance(message, Bye):
                        self.bye = message
                    return message
            except CodecError as error:
                _log.error("ignored a message of the engine: %s", error)

    async def request(
        self, request: Request, answer: type[AnswerT], on_answer: Callable[[AnswerT], None] | None = None
    ) -> AnswerT:
        """Send a request and wait for its answer.

        ``on_answer`` runs before the next message is looked at, so that nothing comes between an answer and its effect.

        Raises:
            RequestError: refused; ``limit_exceeded``: it is larger than the engine takes, and was not sent.
            ConnectionLost: outcome unknown.
        """
        if self._lost is not None:
            raise ConnectionLost(str(self._lost))
        request.id = next(self._ids)
        sent, most = msgspec.json.encode(request), self.welcome.limits.get("message_bytes")
        if most is not None and len(sent) > most:  # the engine would close the connection, after each repetition
            raise RequestError(ErrorCode.LIMIT_EXCEEDED, f"{len(sent)} bytes, the engine takes {most} in a message")
        decoder = _decoders.get(answer)
        if decoder is None:
            decoder = _decoders[answer] = msgspec.json.Decoder(answer)
        future: asyncio.Future[AnswerT] = asyncio.get_running_loop().create_future()
        self._pending[request.id] = _Pending(future, decoder, on_answer)
        self.on_request()
        try:
            await self._websocket.send(sent, text=True)
            return await future
        except ConnectionClosed:
            raise self.drop(f"the connection was lost: {self._why()}") from None
        finally:
            self._pending.pop(request.id, None)
            if future.done() and not future.cancelled():
                future.exception()  # seen: a failed send has told it already

    def _answered(self, request_id: int | str, raw: bytes) -> None:
        pending = self._pending.pop(request_id, None)
        if pending is None or pending.answer.done():
            return  # nobody waits any longer
        try:
            answer = pending.decoder.decode(raw)
            if pending.on_answer is not None:
                pending.on_answer(answer)
            pending.answer.set_result(answer)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            pending.answer.set_exception(RequestError(ErrorCode.INTERNAL, f"the engine's answer is malformed: {error}"))

    def _refused(self, refusal: Refusal) -> None:
        pending = self._pending.pop(refusal.id, None) if refusal.id is not None else None
        if pending is None:
            _log.error("the engine refused a message: %s", refusal.error())
        elif not pending.answer.done():
            pending.answer.set_exception(refusal.error())

    def drop(self, why: str) -> ConnectionLost:
        """The connection is over for the client: fail what is in flight. Returns the error."""
        if self._lost is None:
            self._lost = ConnectionLost(why)
            for pending in self._pending.values():
                if not pending.answer.done():
                    pending.answer.set_exception(ConnectionLost(f"{why}; outcome unknown"))
            self.on_lost()
        return self._lost

    async def close(self) -> None:
        """Close, politely for at most ``CLOSE_TIMEOUT_S`` seconds."""
        self.drop("the client closed the connection")
        await self._websocket.close()

    def _why(self) -> str:
        if self.bye is not None:
            return f"{self.bye.code} {self.bye.reason}".rstrip()
        if self._websocket.close_code is None:
            return "closing"
        return f"{self._websocket.close_code} {self._websocket.close_reason or ''}".rstrip()


async def _connect(url: str, token: str | None, tls_ca_file: str | None) -> WebSocket:
    if token and _TOKEN.fullmatch(token) is None:  # the library's own error would show it
        text = "this token holds what no header may: blanks, a line's end, or letters beyond ASCII"
        raise RequestError(ErrorCode.BAD_REQUEST, text, "token")
    try:
        options: dict[str, Any] = {}  # no `ssl` at all: the library refuses None for a wss:// URL
        if tls_ca_file is not None:
            options["ssl"] = ssl.create_default_context(cafile=tls_ca_file)
        return await Connect(
            url,
            subprotocols=[SUBPROTOCOL],  # type: ignore[list-item]  # a NewType of str
            additional_headers={"Authorization": f"Bearer {token}"} if token else None,
            compression=None,
            user_agent_header="heliograph",
            open_timeout=None,  # the caller's covers the welcome too
            ping_interval=None,  # a consumer that takes its time is no dead engine; see ClientKeeper._watch
            close_timeout=CLOSE_TIMEOUT_S,
            max_size=MESSAGE_BYTES,
            logger=QUIET,
            proxy=None if leads_here(url) else True,
            **options,
        )
    except InvalidURI as error:
        raise RequestError(ErrorCode.BAD_REQUEST, f"not a WebSocket URL: {error}", "url") from None
    except InvalidStatus as error:
        status = error.response.status_code
        if status in _FINAL_HTTP:
            raise RequestError(_FINAL_HTTP[status], f"{url} refused the connection with HTTP {status}") from None
        raise ConnectionLost(f"{url} answered HTTP {status} to the WebSocket handshake") from None
    except InvalidHandshake as error:
        raise ConnectionLost(f"{url}: {error}") from None
    except OSError as error:
        why = "connection refused" if isinstance(error, ConnectionRefusedError) else error.strerror or str(error)
        raise ConnectionLost(f"{url}: {why}") from error
