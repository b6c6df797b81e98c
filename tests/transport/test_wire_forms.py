from decimal import Decimal
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport.errors import RequestError
from transport.messages import Publication
from transport.wire_forms import JsonForm, MsgpackForm

EVENT = Publication("price.EUR_USD", "e1", 42, 1700000000.123456, 'ty"pe', b'{"bid":1.12000}', "EUR_USD", "high", 1.5)


def _payload(frame: bytes) -> bytes:
    length = frame[1]
    return frame[2:] if length < 126 else frame[4:] if length == 126 else frame[10:]


def test_an_event_as_json_keeps_the_publishers_digits() -> None:
    frame = JsonForm().event(EVENT)
    assert frame[0] == 0x81
    assert _payload(frame) == (
        b'{"op":"event","topic":"price.EUR_USD","type":"ty\\"pe","offset":42,"epoch":"e1","ts":1700000000.123456,'
        b'"key":"EUR_USD","priority":"high","source_ts":1.500000,"data":{"bid":1.12000}}'
    )


def test_an_event_as_messagepack_is_the_same_map() -> None:
    frame = MsgpackForm().event(EVENT._replace(data=b'{"a":1.5,"b":1.1,"c":123456789012345678901234567890}'))
    assert frame[0] == 0x82
    fields: dict[str, Any] = msgpack.unpackb(_payload(frame))
    data = fields.pop("data")
    expected = msgspec.json.decode(_payload(JsonForm().event(EVENT)))
    del expected["data"]
    assert fields == expected
    assert data["a"] == 1.5
    assert data["b"] == msgpack.ExtType(1, b"1.1")
    assert data["c"] == msgpack.ExtType(1, b"123456789012345678901234567890")


@pytest.mark.parametrize("digits", ["9" * 5_000, "-" + "9" * 5_000, "1e999999999999999999999", "1e400", "1e-400"])
def test_numbers_of_any_size_keep_their_digits(digits: str) -> None:
    fields = msgpack.unpackb(_payload(MsgpackForm().event(EVENT._replace(data=f'{{"a":[{digits}]}}'.encode()))))
    assert fields["data"] == {"a": [msgpack.ExtType(1, digits.encode())]}


@pytest.mark.parametrize("data", [b"[" * 100_000 + b"]" * 100_000, b"not JSON", b'"\xff"'])
def test_data_without_a_messagepack_form_is_a_gap_and_is_left_out_of_a_snapshot(data: bytes) -> None:
    form, event = MsgpackForm(), EVENT._replace(data=data)
    told = msgpack.unpackb(_payload(form.event(event)))
    assert (told["op"], told["topic"], told["from"], told["to"]) == ("gap", "price.EUR_USD", 42, 42)
    answer = msgpack.unpackb(_payload(form.snapshot(7, [event, EVENT])))
    assert [found["offset"] for found in answer["events"]] == [42]


@pytest.mark.parametrize(
    "raw",
    [
        b"\xa1\xff",  # not UTF-8
        b"\x81\x80\x01",  # a map as key
        b"\x91" * 100_000 + b"\xc0",
        *(
            msgspec.msgpack.encode(msgspec.msgpack.Ext(1, text))
            for text in (b"", b"NaN", b"1x", b"1_0", b" 1", b"\xff")
        ),
        msgspec.msgpack.encode(msgspec.msgpack.Ext(2, b"1")),
        b"\x81" + msgspec.msgpack.encode(msgspec.msgpack.Ext(1, b"1")) + b"\x01",  # a decimal as key
        msgspec.msgpack.encode([1.0, float("nan")]),
        b"\xd6\xff",  # a timestamp without its bytes
    ],
)
def test_what_messagepack_clients_publish_without_a_json_form_is_refused(raw: bytes) -> None:
    with pytest.raises(RequestError) as caught:
        MsgpackForm().payload(raw)
    assert caught.value.code == "bad_request"
    assert caught.value.field is not None and caught.value.field.startswith("data")


def test_long_types_are_not_kept() -> None:
    form = JsonForm()
    form.event(EVENT._replace(type="x" * 100_000))
    form.event(EVENT)
    assert list(form._types) == [EVENT.type]


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.decimals(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(JSON_VALUES)
def test_what_messagepack_clients_publish_comes_back_equal(value: Any) -> None:
    form = MsgpackForm()
    encoder = msgspec.json.Encoder(decimal_format="number")
    decode = msgspec.json.Decoder(float_hook=Decimal).decode
    raw = msgspec.msgpack.encode(form._transcode(encoder.encode(value)))
    back = decode(form.payload(raw))
    assert back == decode(encoder.encode(value))


@pytest.mark.parametrize("form", [JsonForm(), MsgpackForm()])
def test_an_event_that_has_no_place_yet_has_neither_offset_nor_epoch(form: JsonForm | MsgpackForm) -> None:
    decode = msgpack.unpackb if form.binary else msgspec.json.decode
    placed, placeless = (decode(_payload(form.event(EVENT._replace(epoch=epoch)))) for epoch in ("e1", ""))
    assert placed.keys() - placeless.keys() == {"offset", "epoch"}
    assert form.binary is False or form.event(EVENT._replace(epoch="", data=b"not JSON")) == b""
