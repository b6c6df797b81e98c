import msgspec
import pytest

from transport.codes import ErrorCode
from transport.requests import Ping, Publish, Rejected, RequestDecoder, Subscribe

JSON, MSGPACK = RequestDecoder(binary=False), RequestDecoder(binary=True)


def test_requests_decode_in_both_encodings() -> None:
    fields = {"op": "subscribe", "id": 1, "topics": ["price.*"], "snapshot": True}
    for decoder, encode in ((JSON, msgspec.json.encode), (MSGPACK, msgspec.msgpack.encode)):
        request = decoder.decode(encode(fields))
        assert isinstance(request, Subscribe)
        assert (request.id, request.topics, request.snapshot) == (1, ["price.*"], True)


def test_data_of_a_publish_keeps_its_bytes() -> None:
    request = JSON.decode(b'{"op":"publish","id":"x","topic":"a","data":{"p": 1.1200, "n":[1e2]}}')
    assert isinstance(request, Publish)
    assert bytes(request.data) == b'{"p": 1.1200, "n":[1e2]}'
    assert isinstance(JSON.decode(b'{"op":"ping","id":7}'), Ping)


@pytest.mark.parametrize(
    ("message", "code", "field", "request_id"),
    [
        (b"", ErrorCode.BAD_REQUEST, None, None),
        (b"{", ErrorCode.BAD_REQUEST, None, None),
        (b"[]", ErrorCode.BAD_REQUEST, None, None),
        (b"[" * 10_000, ErrorCode.BAD_REQUEST, None, None),
        (b'{"op":"nope","id":3}', ErrorCode.BAD_REQUEST, "op", 3),
        (b'{"id":3}', ErrorCode.BAD_REQUEST, "op", 3),
        (b'{"op":"ping"}', ErrorCode.BAD_REQUEST, "id", None),
        (b'{"op":"ping","id":1.5}', ErrorCode.BAD_REQUEST, "id", None),
        (b'{"op":"ping","id":1,"x":2}', ErrorCode.BAD_REQUEST, "x", 1),
        (b'{"op":"subscribe","id":1}', ErrorCode.BAD_REQUEST, "topics", 1),
        (b'{"op":"subscribe","id":1,"topics":"a"}', ErrorCode.BAD_REQUEST, "topics", 1),
        (b'{"op":"subscribe","id":1,"topics":["a",2]}', ErrorCode.BAD_REQUEST, "topics[1]", 1),
        (b'{"op":"publish","id":1,"topic":"a","data":NaN}', ErrorCode.BAD_REQUEST, None, None),
        (b'{"op":"publish","id":1,"topic":"a","data":1,"priority":"urgent"}', ErrorCode.BAD_REQUEST, "priority", 1),
        (b'{"op":"subscribe","id":1,"topics":["a"],"conflate":1}', ErrorCode.BAD_REQUEST, "conflate", 1),
        (b'{"op":"subscribe","id":1,"topics":["a"],"max_rate":0}', ErrorCode.BAD_REQUEST, "max_rate", 1),
        (b'{"op":"subscribe","id":1,"topics":["a"],"max_rate":1e-300}', ErrorCode.BAD_REQUEST, "max_rate", 1),
        (b'{"op":"subscribe","id":1,"topics":["a"],"window":1.5}', ErrorCode.BAD_REQUEST, "window", 1),
        (b'{"op":"subscribe","id":1,"topics":["a"],"group":""}', ErrorCode.BAD_REQUEST, "group", 1),
        (b'{"op":"subscribe","id":1,"topics":["a"],"since":7}', ErrorCode.BAD_REQUEST, "since", 1),
        (
            b'{"op":"subscribe","id":1,"topics":["a"],"since":{"a":{"epoch":"e","offset":-1}}}',
            ErrorCode.BAD_REQUEST,
            "since[...].offset",
            1,
        ),
        (
            b'{"op":"subscribe","id":1,"topics":["a"],"since":{"a":{"epoch":"e","offset":1,"x":2}}}',
            ErrorCode.BAD_REQUEST,
            "since[...].x",
            1,
        ),
        (
            b'{"op":"history","id":1,"topic":"a","since":{"epoch":"e","offset":1,"x":2}}',
            ErrorCode.BAD_REQUEST,
            "since.x",
            1,
        ),
        (
            b'{"op":"publish","id":1,"topic":"a","data":1,"idempotency_key":""}',
            ErrorCode.BAD_REQUEST,
            "idempotency_key",
            1,
        ),
        (
            b'{"op":"ack","id":1,"topic":"a","epoch":"e","offset":9223372036854775808}',
            ErrorCode.BAD_REQUEST,
            "offset",
            1,
        ),
        (b'{"op":"call","id":9,"topic":"a"}', ErrorCode.BAD_REQUEST, "method", 9),
        (b'{"op":"serve","id":9,"topic":"a","methods":["m",""]}', ErrorCode.BAD_REQUEST, "methods[1]", 9),
        (
            b'{"op":"result","id":9,"call":"a","error":{"code":"sad","message":"m"}}',
            ErrorCode.BAD_REQUEST,
            "error.code",
            9,
        ),
        (b'{"op":"history","id":9,"topic":"a","limit":0}', ErrorCode.BAD_REQUEST, "limit", 9),
        (b'{"op":"auth","id":9,"token":""}', ErrorCode.BAD_REQUEST, "token", 9),
        (b'{"op":"auth","id":9,"token":"' + b"a" * 8_193 + b'"}', ErrorCode.BAD_REQUEST, "token", 9),
    ],
)
def test_what_is_wrong_is_named(message: bytes, code: ErrorCode, field: str | None, request_id: int | None) -> None:
    with pytest.raises(Rejected) as caught:
        JSON.decode(message)
    assert (caught.value.error.code, caught.value.error.field, caught.value.id) == (code, field, request_id)


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (b'{"op":"subscribe","id":1,"topics":["a"],"max_rate":0}', "Expected `float` >= 0.001"),
        (b'{"op":"ping","id":1,"x":2}', "Object contains unknown field `x`"),
        (
            b'{"op":"publish","id":1,"topic":"a","data":1,"priority":"urgent"}',
            "Invalid enum value 'urgent', must be one of low, medium, high, critical",
        ),
        (
            b'{"op":"publisch","id":1}',
            "Invalid value 'publisch', must be one of ack, auth, call, history, ping, presence, publish, result, "
            "serve, snapshot, stats, subscribe, subscriptions, unsubscribe",
        ),
    ],
)
def test_the_text_says_what_would_be_right_and_leaves_the_place_to_the_field(message: bytes, said: str) -> None:
    with pytest.raises(Rejected) as caught:
        JSON.decode(message)
    assert caught.value.error.message == said
