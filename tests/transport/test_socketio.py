from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from socketio.packet import Packet as LibraryPacket

from transport.errors import RequestError
from transport.frames import unframe
from transport.socketio import (
    MAX_ATTACHMENTS,
    MAX_NAMESPACE,
    Decoder,
    Kind,
    Packet,
    SocketIoError,
    decode,
    encode,
    head,
)

_BYTES = 1_000
_scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
_keys = st.text().filter("_placeholder".__ne__)  # a map with this key is a placeholder to every implementation
_values = st.recursive(
    _scalars | st.binary(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text().filter("_placeholder".__ne__), inner, max_size=4)
    ),
    max_leaves=8,
)
_namespaces = st.just("/") | st.text(st.characters(exclude_characters=",?", codec="utf-8"), max_size=20).map(
    "/{}".format
)
_ids = st.none() | st.integers(0, 10**16 - 1)
_kinds = st.sampled_from([Kind.EVENT, Kind.ACK])


def _receive(frames: bytes) -> Packet:
    decoder, packet = Decoder(_BYTES * _BYTES), None
    for binary, payload in unframe(frames):
        assert packet is None
        if binary:
            packet = decoder.binary(payload)
        else:
            assert payload[:1] == b"4"
            packet = decoder.text(payload[1:])
    assert packet is not None
    return packet


def _said(kind: Kind, packet: Packet) -> list[Any]:
    return [packet.name, *packet.values()] if kind is Kind.EVENT else packet.values()


@given(_kinds, _namespaces, _ids, st.text(), st.lists(_values, max_size=3))
def test_a_packet_is_read_as_it_was_written(
    kind: Kind, namespace: str, number: int | None, name: str, args: Any
) -> None:
    data = [name, *args] if kind is Kind.EVENT else args
    packet = _receive(encode(kind, namespace, number, data))
    assert (packet.kind, packet.namespace, packet.id) == (kind, namespace, number)
    assert _said(kind, packet) == data


@given(_kinds, _namespaces, _ids, st.text(), st.lists(_values, max_size=3))
def test_the_library_reads_what_is_written_here(
    kind: Kind, namespace: str, number: int | None, name: str, args: list[Any]
) -> None:
    data = [name, *args]
    (_, text), *attachments = unframe(encode(kind, namespace, number, data))
    found = LibraryPacket(encoded_packet=text[1:].decode())
    assert found.attachment_count == len(attachments)
    for _, attachment in attachments:
        found.add_attachment(attachment)
    assert found.packet_type == kind + 3 * bool(attachments)
    assert (found.namespace or "/", found.id, found.data) == (namespace, number, data)


@given(_kinds, _namespaces, _ids, st.text(), st.lists(_values, max_size=3))
def test_what_the_library_writes_is_read_here(
    kind: Kind, namespace: str, number: int | None, name: str, args: list[Any]
) -> None:
    data = [name, *args]
    written = LibraryPacket(kind, data=data, namespace=namespace, id=number).encode()
    text, *attachments = written if isinstance(written, list) else [written]
    decoder = Decoder(_BYTES * _BYTES)
    found = decoder.text(text.encode())
    for attachment in attachments:
        assert found is None
        found = decoder.binary(attachment)
    assert found is not None
    assert (found.kind, found.namespace, found.id, _said(kind, found)) == (kind, namespace, number, data)


@pytest.mark.parametrize(
    ("text", "namespace", "data"),
    [
        (b"0", "/", []),
        (b'0{"token":"1.10"}', "/", [{"token": "1.10"}]),
        (b"0/custom", "/custom", []),
        (b"0/custom,", "/custom", []),
        (b'0/custom,{"a":1}', "/custom", [{"a": 1}]),
        (b"0/", "/", []),
        (b"1/custom", "/custom", []),
        (b"1/custom,", "/custom", []),
        (b"1", "/", []),
    ],
)
def test_connecting_and_disconnecting(text: bytes, namespace: str, data: list[Any]) -> None:
    packet, missing = decode(text)
    assert (packet.kind, packet.namespace, packet.values(), missing) == (int(text[:1]), namespace, data, 0)


def test_packets_of_the_server_are_those_of_the_protocol() -> None:
    assert [*unframe(encode(Kind.CONNECT, "/a", None, {"sid": "x"}))] == [(False, b'40/a,{"sid":"x"}')]
    assert [*unframe(encode(Kind.DISCONNECT, "/a"))] == [(False, b"41/a,")]
    assert [*unframe(encode(Kind.CONNECT_ERROR, "/", None, {"message": "No"}))] == [(False, b'44{"message":"No"}')]
    assert [*unframe(encode(Kind.ACK, "/a", 12, []))] == [(False, b"43/a,12[]")]
    assert [*unframe(encode(Kind.EVENT, "/a", 3, ["e", b"\x01"]))] == [
        (False, b'451-/a,3["e",{"_placeholder":true,"num":0}]'),
        (True, b"\x01"),
    ]
    assert head(Kind.EVENT, "/") == b"42"


def test_arguments_keep_the_clients_digits() -> None:
    packet, _ = decode(b'2["publish",{"bid":1.12000},' + b"9" * 5_000 + b"]")
    assert [bytes(item) for item in packet.data] == [b'{"bid":1.12000}', b"9" * 5_000]
    with pytest.raises(SocketIoError, match="an argument"):
        packet.values()
    assert decode(b'2["e",' + b"9" * 400 + b"]")[0].values() == [int("9" * 400)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "digit"),
        (b"abc", "digit"),
        (b"7", "digit"),
        (b"2", "payload"),
        (b"2{}", "payload"),
        (b"2[]", "name"),
        (b"2[1]", "payload"),
        (b'2["a"', "payload"),
        (b'2["a"]x', "payload"),
        (b'2["a",NaN]', "payload"),
        (b'2["\xff"]', "payload"),
        (b'2abc["a"]', "payload"),
        (b'2-1["a"]', "payload"),
        (b'21-["a"]', "has attachments"),
        (b'5["a"]', "lacks attachments"),
        (b'5101-["a"]', "at most 100"),
        (b'599999999-["a"]', "lacks attachments"),
        (b"2" + b"1" * 17 + b'["a"]', "at most 16 digits"),
        (b"2/" + b"n" * MAX_NAMESPACE + b',["a"]', "at most 255 bytes"),
        (b'2/\xff,["a"]', "payload"),
        (b'2["a",' + b"[" * 100_000 + b"]" * 100_000 + b"]", "payload"),
        (b"3", "payload"),
        (b"3{}", "payload"),
        (b"0[1]", "payload"),
        (b'0"token"', "payload"),
        (b"0/a,{", "payload"),
        (b"1{}", "no payload"),
    ],
)
def test_what_is_no_packet_is_refused(text: bytes, said: str) -> None:
    with pytest.raises(SocketIoError, match=said):
        decode(text)


@given(
    st.binary(max_size=40)
    | st.from_regex(rb'[0-6]([0-9]{0,3}-)?(/[a-z]{0,3},?)?[0-9]{0,3}(\["a",[^"]*\])?', fullmatch=True)
)
def test_any_bytes_are_a_packet_or_refused(text: bytes) -> None:
    try:
        packet, missing = decode(text)
        packet.values()
    except SocketIoError:
        return
    assert packet.kind in (Kind.CONNECT, Kind.DISCONNECT, Kind.EVENT, Kind.ACK, Kind.CONNECT_ERROR)
    assert 0 <= missing <= MAX_ATTACHMENTS


def test_an_attachment_comes_between_its_packet_and_the_next() -> None:
    decoder = Decoder(_BYTES)
    with pytest.raises(SocketIoError, match="without a packet"):
        decoder.binary(b"x")
    packet = b'51-["a",{"_placeholder":true,"num":0}]'
    assert decoder.text(packet) is None
    with pytest.raises(SocketIoError, match="1 attachments were missing"):
        decoder.text(b'2["a"]')
    whole = decoder.binary(b"x")
    assert whole is not None
    assert whole.values() == [b"x"]
    decoder.text(packet)
    another = decoder.binary(b"y")
    assert another is not None
    assert another.values() == [b"y"]
    with pytest.raises(SocketIoError, match="without a packet"):
        decoder.binary(b"x")
    plain = decoder.text(b'50-["a"]')
    assert plain is not None
    assert plain.kind is Kind.EVENT


def test_a_packet_and_its_attachments_are_bounded_together() -> None:
    decoder = Decoder(_BYTES)
    decoder.text(b'53-["a"]')
    decoder.binary(bytes(_BYTES // 2))
    with pytest.raises(SocketIoError, match="more than 1000 bytes"):
        decoder.binary(bytes(_BYTES // 2))


@pytest.mark.parametrize("number", ["1", "-1", "false", '"0"', "0.0", "null", "9" * 400])
def test_a_placeholder_for_no_attachment_is_refused(number: str) -> None:
    decoder = Decoder(_BYTES)
    decoder.text(b'51-["a",[{"_placeholder":true,"num":%b}]]' % number.encode())
    packet = decoder.binary(b"x")
    assert packet is not None
    with pytest.raises(SocketIoError, match="placeholder"):
        packet.values()


def test_at_any_depth_an_argument_is_values_or_refused() -> None:
    refused = []
    for depth in range(100, 3_000, 100):
        decoder = Decoder(1_000_000)
        try:
            decoder.text(b'51-["a",%b{"_placeholder":true,"num":0}%b]' % (b"[" * depth, b"]" * depth))
            packet = decoder.binary(b"x")
            assert packet is not None
            packet.values()
        except SocketIoError:
            refused.append(depth)
    assert refused[0] > 100
    assert refused[-1] == 2_900


def test_data_without_a_json_form_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    for value, said in ((float("nan"), "nan"), (endless, "recursion"), (object(), "object")):
        with pytest.raises(RequestError, match=said):
            encode(Kind.EVENT, "/", None, ["a", value])
