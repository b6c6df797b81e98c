from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from actors.feed_protocol import FeedGap, Item, ProtocolSpec
from actors.redis_protocol import RedisMessage, RedisProtocol, command
from actors.upstream_values import BadMessage, MappingError
from transport.errors import ConfigError
from transport.messages import Publish

CHANNELS = {"prices.*": "price.{1}", "alerts": "alert.all"}


def received(payload: bytes, channel: bytes = b"alerts", protocol: RedisProtocol | None = None) -> list[Item]:
    protocol = protocol or RedisProtocol(CHANNELS)
    return list(protocol.receive(RedisMessage.of([b"message", channel, payload])))


def data(payload: bytes) -> bytes:
    (event,) = received(payload)
    assert type(event) is Publish, event
    return event.data


def bad(payload: bytes, **options: Any) -> MappingError:
    (error,) = received(payload, protocol=RedisProtocol(CHANNELS, **options))
    assert isinstance(error, MappingError)
    return error


def test_a_command_is_words_with_their_length_in_bytes() -> None:
    assert command("SUBSCRIBE", "é x", "") == b"*3\r\n$9\r\nSUBSCRIBE\r\n$4\r\n\xc3\xa9 x\r\n$0\r\n\r\n"


@pytest.mark.parametrize(
    ("channels", "commands"),
    [
        ({"a": "t", "b": "u"}, [command("SUBSCRIBE", "a", "b")]),
        ({"a*": "t"}, [command("PSUBSCRIBE", "a*")]),
        ({"a*": "t", "a": "u", "b?": "v"}, [command("SUBSCRIBE", "a"), command("PSUBSCRIBE", "a*", "b?")]),
    ],
)
def test_each_connection_subscribes(channels: dict[str, str], commands: list[bytes]) -> None:
    protocol = RedisProtocol(channels)
    for _ in range(2):
        protocol.opened()
        assert protocol.outgoing == commands
        protocol.outgoing.clear()


def test_a_message_is_an_event_of_its_channel_s_topic() -> None:
    protocol = RedisProtocol(CHANNELS, type="price_update")
    push = [b"pmessage", b"prices.*", b"prices.EUR_USD", b'{"bid":1.121340}']
    assert list(protocol.receive(RedisMessage.of(push))) == [
        Publish(0, "price.EUR_USD", "price_update", b'{"bid":1.121340}')
    ]
    assert received(b"1") == [Publish(0, "alert.all", "message", b"1")]


def test_a_field_of_the_message_may_be_in_the_topic() -> None:
    protocol = RedisProtocol({"price_updates": "price.{instrument}"})
    push = [b"message", b"price_updates", b'{"instrument":"EUR_USD","bid":1.121340}']
    assert list(protocol.receive(RedisMessage.of(push))) == [
        Publish(0, "price.EUR_USD", "message", b'{"instrument":"EUR_USD","bid":1.121340}')
    ]
    (error,) = protocol.receive(RedisMessage.of([b"message", b"price_updates", b"hello"]))
    assert isinstance(error, MappingError) and (error.reason, error.path) == (BadMessage.MISSING, "instrument")


@pytest.mark.parametrize(
    "push", [[b"subscribe", b"alerts", 1], [b"psubscribe", b"prices.*", 2], [b"unsubscribe", None, 0]]
)
def test_answers_are_no_events(push: list[Any]) -> None:
    assert list(RedisProtocol(CHANNELS).receive(RedisMessage.of(push))) == []


@pytest.mark.parametrize(
    ("payload", "is_data"),
    [
        (
            b'{"bid":1.1200,"n":1e2,"big":12345678901234567890123}',
            b'{"bid":1.1200,"n":1e2,"big":12345678901234567890123}',
        ),
        (b' {"a": [1, 2]}\r\n', b'{"a": [1, 2]}'),
        (b"null", b"null"),
        (b'"text"', b'"text"'),
        (b"hello", b'"hello"'),
        (b" hello \n", b'" hello \\n"'),
        (b"", b'""'),
        (b"NaN", b'"NaN"'),
        (b'{"a":', b'"{\\"a\\":"'),
        ("é\x00".encode(), '"é\\u0000"'.encode()),
    ],
)
def test_json_is_data_as_it_is_and_text_is_a_json_string(payload: bytes, is_data: bytes) -> None:
    assert data(payload) == is_data
    assert type(data(payload)) is bytes  # what crosses the bus is no RedisMessage


def test_bad_messages_name_their_channel_and_why() -> None:
    assert bad(b"\xff\xfe\x00").reason is BadMessage.NOT_JSON
    assert bad(b'"\xff"').detail == "neither JSON nor UTF-8"
    assert bad(b'{"a":1e999}').reason is BadMessage.NOT_FINITE
    assert bad(b"12345", message_bytes=4).reason is BadMessage.TOO_BIG
    assert bad(b"12345", message_bytes=4).path == "alerts"
    (event,) = received(b"12345", protocol=RedisProtocol(CHANNELS, message_bytes=5))
    assert isinstance(event, Publish)


def test_a_channel_without_topic_is_bad() -> None:
    (error,) = RedisProtocol(CHANNELS).receive(RedisMessage.of([b"pmessage", b"prices.*", b"prices.", b"1"]))
    assert isinstance(error, MappingError)
    assert error.reason is BadMessage.BAD_TOPIC


def test_what_was_missed_cannot_be_known() -> None:
    assert RedisProtocol(CHANNELS).missed() == FeedGap("reconnected")


@pytest.mark.parametrize(
    ("channels", "field"),
    [({}, "channels"), ({"": "t"}, "channels"), ({"a": "t", "prices.*": "price.{2}"}, "channels.prices.*")],
)
def test_a_wrong_configuration_names_the_channel(channels: dict[str, str], field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ProtocolSpec(RedisProtocol, {"channels": channels}).create()
    assert caught.value.field == field


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(-1e300, 1e300) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(values.map(msgspec.json.encode))
def test_json_is_never_written_anew(payload: bytes) -> None:
    assert data(payload) == payload


@given(st.binary() | st.text().map(str.encode))
@example(b"\xef\xbb\xbf{}")
@example(b'"\\ud800"')
def test_whatever_comes_is_json_or_bad(payload: bytes) -> None:
    (item,) = received(payload)
    if isinstance(item, Publish):
        decoded = msgspec.json.decode(item.data)
        assert decoded == payload.decode() or item.data == payload.strip(b" \t\r\n")
    else:
        assert isinstance(item, MappingError)
        with pytest.raises(UnicodeDecodeError):
            payload.decode()
