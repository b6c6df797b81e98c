"""The wire form of Socket.IO clients: an event of the engine is an EVENT packet, encoded once for all of a namespace.

The answer to a request is the acknowledgement that the client waits for, or whatever the one who asks on its behalf
makes of it: a request's ``id`` may be a callable, which is given the answer where its place among the events is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from transport.frames import text_frame
from transport.messages import Missed, Publication
from transport.requests import Request
from transport.socketio import Kind, head
from transport.wire_forms import JsonForm, gap

SOCKET_IO = "socket.io"
"""In place of a subprotocol."""
Encode = Callable[[Publication], bytes | None]
Reply = Callable[[Mapping[str, Any]], bytes]
"""The fields of an answer to frames."""


class SocketIoForm:
    """How the clients of one namespace want their messages; see :class:`transport.wire_forms.WireForm`.

    Args:
        namespace: e.g. ``/``.
        encode: an event's packet as a JSON array, ``["name", argument, …]``; ``None``: these clients do not get it.
            It is called once per event. Without it: ``["event", {…}]``, the map that native clients get.
        notices: what else these clients are told, by ``op`` (``gap``, ``bye``, ``position``, …); ``None``: all.
    """

    subprotocol = SOCKET_IO
    binary = False

    def __init__(self, namespace: str, encode: Encode | None = None, notices: frozenset[str] | None = None) -> None:
        self._native = JsonForm()
        self._encode = self._generic if encode is None else encode
        self._namespace, self._notices = namespace, notices
        self._event = head(Kind.EVENT, namespace)
        self._connect = head(Kind.CONNECT, namespace)
        self._json = msgspec.json.Encoder(decimal_format="number").encode

    def event(self, publication: Publication) -> bytes:
        items = self._encode(publication)
        return b"" if items is None else text_frame(self._event + items)

    def _generic(self, publication: Publication) -> bytes:
        return b'["event",%b]' % self._native.event_json(publication)

    def message(self, fields: Mapping[str, Any]) -> bytes:
        op = fields["op"]
        if op == "welcome":
            return text_frame(self._connect + self._json({"sid": fields["session"]}))
        if op in ("ok", "error"):
            request_id = fields["id"]
            if callable(request_id):
                frames: bytes = request_id(fields)
                return frames
            if isinstance(request_id, int):
                return self._acknowledge(request_id, fields)
            if op == "ok":
                return b""  # nobody asked for an acknowledgement
        if self._notices is not None and op not in self._notices:
            return b""
        return text_frame(b"%b[%b,%b]" % (self._event, self._json(op), self._json(fields)))

    def _acknowledge(self, request_id: int, fields: Mapping[str, Any]) -> bytes:
        answer = {name: value for name, value in fields.items() if name != "id"}
        return text_frame(b"%b[%b]" % (head(Kind.ACK, self._namespace, request_id), self._json(answer)))

    def batch(self, publications: Sequence[Publication]) -> bytes:
        """The events one by one: a client's handler takes one."""
        return b"".join(map(self.event, publications))

    def snapshot(
        self, request_id: int | str | Reply, publications: Iterable[Publication], missed: Missed | None = None
    ) -> bytes:
        """As ``ok`` with the events' maps as ``events``; a callable also gets ``publications``."""
        found = list(publications)
        events = [msgspec.Raw(self._native.event_json(publication)) for publication in found]
        fields: dict[str, Any] = {"op": "ok", "id": request_id, "events": events}
        if missed is not None:
            fields["gap"] = gap(missed)
        if callable(request_id):
            fields["publications"] = found
        return self.message(fields)

    def decode(self, data: bytes) -> Request:
        raise NotImplementedError("what Socket.IO clients send is packets: the door reads them, not the session")

    def payload(self, raw: bytes, field: str = "data") -> bytes:
        return bytes(raw)

    def raw(self, payload: bytes) -> msgspec.Raw:
        return msgspec.Raw(payload)
