"""One connection of a client under test: handshake, subscription, and what comes, at the cost of a look-up."""

from __future__ import annotations

import asyncio
from enum import Enum
from time import monotonic_ns
from typing import Any, Protocol, cast

from websockets.uri import WebSocketURI

from engine.loadtest.chunk_reader import Chunk, ChunkReader
from engine.loadtest.dialect import Dialect, Heard, Means
from engine.loadtest.frames import CLOSE, PING, PONG, BadFrame, close_reason, frame
from engine.loadtest.handshake import Handshake, HandshakeFailed
from engine.loadtest.sequences import NONE_YET, Sequences, Strays


class State(Enum):
    """Of a connection, in this order."""

    CONNECTING = "no connection"
    SHAKING_HANDS = "no answer to the handshake"
    OPEN = "no answer to the subscription"
    JOINED = "joined"
    GONE = "gone"


class Owner(Protocol):
    """Who has the connections."""

    def on_joined(self, socket: ClientSocket) -> None:
        """Its subscription stands."""
        ...

    def on_gone(self, socket: ClientSocket, reason: str) -> None:
        """It is lost; told once."""
        ...

    def on_heard(self, socket: ClientSocket, heard: Heard) -> None:
        """An answer to a request, or a gap."""
        ...

    def on_strays(self, strays: Strays) -> None:
        """Messages that came twice or late."""
        ...

    def on_first(self, socket: ClientSocket) -> None:
        """The first message, where no other said that the subscription stands."""
        ...


class ClientSocket(asyncio.Protocol):
    """From the TCP connection to its end.

    Args:
        sequences: of the client whose connection it is.

    Attributes:
        state: where it stands.
    """

    __slots__ = (
        "_dialect",
        "_handshake",
        "_owner",
        "_reader",
        "_remembered",
        "_rest",
        "_slow",
        "_transport",
        "_why",
        "sequences",
        "state",
    )

    def __init__(
        self, owner: Owner, dialect: Dialect, reader: ChunkReader, uri: WebSocketURI, sequences: Sequences
    ) -> None:
        self._owner, self._dialect, self._reader, self.sequences = owner, dialect, reader, sequences
        self._remembered = reader.remembered
        self._handshake: Handshake | None = Handshake(uri, dialect.headers)
        self._transport: Any = None  # asyncio.Transport, from connection_made on
        self._rest = b""
        self._slow = True  # a look-up is not enough: during the handshake, and within a frame
        self._why = ""
        self.state = State.CONNECTING

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._why:  # given up meanwhile
            self._transport.abort()
            return
        assert self._handshake is not None
        self.state = State.SHAKING_HANDS
        self._transport.write(self._handshake.request)

    def data_received(self, data: bytes) -> None:
        if self._slow or (chunk := self._remembered.get(data)) is None:
            self._receive(data)
            return
        chunk.times.append(monotonic_ns())
        sequences = self.sequences
        if chunk.first == sequences.next:
            sequences.next, sequences.place = chunk.next, chunk.place
        else:
            self._look_at(chunk)

    def _receive(self, data: bytes) -> None:
        now = monotonic_ns()
        try:
            if self._handshake is not None:
                rest = self._handshake.receive(data)
                if rest is None:
                    return
                self._handshake, self._slow = None, False
                self._shook_hands()
                data = rest
            if self.state is State.GONE or not data:
                return
            chunk = self._reader.read(self._rest + data)
        except (BadFrame, HandshakeFailed) as error:
            self.abort(str(error))
            return
        chunk.times.append(now)
        self._look_at(chunk)

    def _look_at(self, chunk: Chunk) -> None:
        for heard in chunk.heard:
            self._hear(heard)
        if chunk.stamps:
            sequences = self.sequences
            first = sequences.next == NONE_YET
            strays = sequences.take([sequence for _, sequence in chunk.stamps])
            sequences.place = chunk.place
            if strays.duplicates or strays.late:
                self._owner.on_strays(strays)
            if first:
                self._owner.on_first(self)
        for opcode, payload in chunk.controls:
            self._control(opcode, payload)
        self._rest, self._slow = chunk.rest, bool(chunk.rest)

    def _hear(self, heard: Heard) -> None:
        match heard.means:
            case Means.SAY:
                self.send(heard.text.encode())
            case Means.READY:
                self._subscribe()
            case Means.JOINED:
                if heard.place is not None and self.sequences.place is None:
                    self.sequences.place = heard.place
                self._join()
            case Means.REFUSED:
                self.abort(heard.text)
            case Means.BYE:
                self._why = self._why or f"bye: {heard.text}"
            case _:
                self._owner.on_heard(self, heard)

    def _shook_hands(self) -> None:
        self.state = State.OPEN
        if self._dialect.ready_at_once:
            self._subscribe()

    def _subscribe(self) -> None:
        for message in self._dialect.hello(self.sequences.place):
            self.send(message)
        if self._dialect.joins_at_once:
            self._join()

    def _join(self) -> None:
        if self.state is State.OPEN:
            self.state = State.JOINED
            self._owner.on_joined(self)

    def _control(self, opcode: int, payload: bytes) -> None:
        if opcode == PING:
            self.send(payload, PONG)
        elif opcode == PONG and payload.isdigit():
            self._owner.on_heard(self, Heard(Means.ANSWERED, id=int(payload)))
        elif opcode == CLOSE:
            self._why = self._why or close_reason(payload)
            self.send(payload[:2], CLOSE)
            self._transport.close()

    def send(self, payload: bytes, opcode: int = 1) -> None:
        """A frame."""
        self.write(frame(payload, opcode))

    def write(self, frames: bytes) -> None:
        """Whole frames; without effect once the connection is closing."""
        if not self._transport.is_closing():
            self._transport.write(frames)

    def close(self) -> None:
        """With a closing handshake as far as we are concerned: we do not wait for the other side's."""
        self._why = self._why or "closed by us"
        if self._transport is not None:
            if self._handshake is None:
                self.send(b"\x03\xe8", CLOSE)
            self._transport.close()

    def abort(self, reason: str) -> None:
        """End it at once, as when the network breaks."""
        self._why = self._why or reason
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        before, self.state = self.state, State.GONE
        why = self._why or (str(exc) if exc is not None else "the connection was closed without a closing handshake")
        if not self._why and before in (State.SHAKING_HANDS, State.OPEN):
            why = f"{before.value}: {why}"
        self._owner.on_gone(self, why)
