"""What a client may send, as typed structs, and one decoder per encoding. Unknown fields are refused by name."""

from __future__ import annotations

import re
from typing import Annotated, Any, get_args

import msgspec
from msgspec import Meta

from transport.codes import ErrorCode, Priority
from transport.errors import RequestError
from transport.position import Place

RequestId = int | str


class _Request(msgspec.Struct, tag_field="op", forbid_unknown_fields=True, omit_defaults=True, kw_only=True, gc=False):
    id: RequestId


class Subscribe(_Request, tag="subscribe"):
    topics: list[str]
    snapshot: bool = False
    where: Any = None  # see transport.filters
    conflate: bool = False
    max_rate: Annotated[float, Meta(ge=0.001, le=1e6)] | None = None  # events per second and key
    window: Annotated[float, Meta(ge=0, le=1)] = 0.0  # s
    batch: bool = False  # a window's events in one frame
    group: Annotated[str, Meta(min_length=1, max_length=64)] | None = None
    since: Annotated[str, Meta(min_length=1, max_length=128)] | dict[str, Place] | None = None  # exclusive


class Unsubscribe(_Request, tag="unsubscribe"):
    topics: list[str] | str


class Publish(_Request, tag="publish"):
    topic: str
    data: msgspec.Raw
    type: str = "message"
    key: str | None = None
    priority: Priority | None = None
    idempotency_key: Annotated[str, Meta(min_length=1, max_length=128)] | None = None


class Snapshot(_Request, tag="snapshot"):
    topics: list[str]


class History(_Request, tag="history"):
    topic: str
    limit: Annotated[int, Meta(ge=1, le=1_000)] = 100  # events
    since: Place | None = None  # exclusive; none: the last ones


class Subscriptions(_Request, tag="subscriptions"):
    pass


class Presence(_Request, tag="presence"):
    topic: str


class Ack(_Request, tag="ack"):
    topic: str
    epoch: str
    offset: Annotated[int, Meta(ge=0, le=2**63 - 1)]  # what the bus carries


class Auth(_Request, tag="auth"):
    token: Annotated[str, Meta(min_length=1, max_length=8_192)]

    def __repr__(self) -> str:
        return f"Auth(id={self.id!r})"


class Call(_Request, tag="call"):
    topic: str
    method: Annotated[str, Meta(min_length=1, max_length=64)]
    params: msgspec.Raw = msgspec.Raw(b"")  # empty: an empty map


class Serve(_Request, tag="serve"):
    topic: str
    methods: Annotated[list[Annotated[str, Meta(min_length=1, max_length=64)]], Meta(max_length=100)]  # none: no longer


class CallError(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Why who was called refuses."""

    code: ErrorCode
    message: Annotated[str, Meta(max_length=4_096)]
    field: Annotated[str, Meta(max_length=255)] | None = None


class Result(_Request, tag="result"):
    call: Annotated[str, Meta(min_length=1, max_length=64)]
    result: msgspec.Raw = msgspec.Raw(b"")  # empty: null
    error: CallError | None = None


class Stats(_Request, tag="stats"):
    pass


class Ping(_Request, tag="ping"):
    pass


Request = (
    Subscribe
    | Unsubscribe
    | Publish
    | Snapshot
    | History
    | Subscriptions
    | Presence
    | Ack
    | Auth
    | Call
    | Serve
    | Result
    | Stats
    | Ping
)
NATIVE_OPS = frozenset({"call", "serve", "result"})
"""What Socket.IO clients cannot ask for."""


class Rejected(Exception):
    """A message that is not a request; ``id`` is its id where one could be read, ``error`` the answer to it."""

    def __init__(self, request_id: RequestId | None, error: RequestError) -> None:
        super().__init__(error)
        self.id, self.error = request_id, error


class _Probe(msgspec.Struct):
    id: Any = None
    op: Any = None


class RequestDecoder:
    """Decodes one message of a client; ``binary`` chooses MessagePack over JSON. Pure."""

    def __init__(self, *, binary: bool) -> None:
        module: Any = msgspec.msgpack if binary else msgspec.json
        self._decoder = module.Decoder(Request)
        self._probe = module.Decoder(_Probe)

    def decode(self, data: bytes) -> Request:
        """One request.

        Raises:
            Rejected: with the contract's error code and the field at fault.
        """
        try:
            request: Request = self._decoder.decode(data)
        except msgspec.DecodeError as error:
            raise self._rejected(data, error) from None
        except (UnicodeDecodeError, RecursionError) as error:
            raise Rejected(None, RequestError(ErrorCode.BAD_REQUEST, f"malformed message: {error}")) from None
        return request

    def _rejected(self, data: bytes, error: msgspec.DecodeError) -> Rejected:
        try:
            probe = self._probe.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return Rejected(None, RequestError(ErrorCode.BAD_REQUEST, f"not a request: {error}"))
        request_id = probe.id if isinstance(probe.id, (int, str)) and not isinstance(probe.id, bool) else None
        return Rejected(request_id, refusal(error))


class NamedDecoder:
    """Decodes a request whose ``op`` and ``id`` are known from elsewhere, from the JSON of its other fields. Pure."""

    def __init__(self) -> None:
        self._decoders = {op: msgspec.json.Decoder(kind) for op, kind in _KINDS.items() if op not in NATIVE_OPS}

    def decode(self, op: str, fields: bytes, request_id: RequestId) -> Request:
        """One request.

        Raises:
            RequestError: with the contract's error code and the field at fault.
        """
        decoder = self._decoders.get(op)
        if decoder is None:
            if op in NATIVE_OPS:
                raise RequestError(ErrorCode.UNSUPPORTED, f"{op!r} is for native clients, on a WebSocket at /ws")
            known = ", ".join(sorted(self._decoders))
            raise RequestError(ErrorCode.NOT_FOUND, f"there is no event {op[:100]!r}, but there are {known}")
        inside = bytes(fields).strip()
        if inside[:1] != b"{":
            raise RequestError(ErrorCode.BAD_REQUEST, f"{op}: a map with the request's fields")
        # Of fields that are there twice the last counts.
        inside = inside[1:-1].strip()
        message = b'{%b%b"id":%b}' % (inside, b"," if inside else b"", msgspec.json.encode(request_id))
        try:
            request: Request = decoder.decode(message)
        except msgspec.DecodeError as error:
            raise refusal(error) from None
        except RecursionError as error:
            raise RequestError(ErrorCode.BAD_REQUEST, f"malformed: {error}") from None
        return request


_KINDS: dict[str, Any] = {kind.__struct_config__.tag: kind for kind in get_args(Request)}
_CHOICES = {"op": ", ".join(sorted(_KINDS)), "priority": ", ".join(Priority), "code": ", ".join(ErrorCode)}
_PATH = re.compile(r" - at `\$\.?([^`]+)`")
_NAMED = re.compile(r"field `([^`]+)`")


def refusal(error: msgspec.DecodeError) -> RequestError:
    """The ``bad_request`` that says what msgspec's text says, and what a field of few values may be."""
    field = field_at_fault(error)
    message = _PATH.sub("", str(error))
    choices = _CHOICES.get((field or "").rpartition(".")[2])
    if choices and message.startswith("Invalid"):
        message += f", must be one of {choices}"
    return RequestError(ErrorCode.BAD_REQUEST, message, field)


def field_at_fault(error: msgspec.DecodeError) -> str | None:
    """The field (``topics[0]``) that msgspec's text blames; ``None`` for the message as a whole."""
    # It says "... - at `$.topics[0]`", or "... unknown field `x`", or both.
    text = str(error)
    parts = [match[1] for match in (_PATH.search(text), _NAMED.search(text)) if match]
    return ".".join(parts) or None
