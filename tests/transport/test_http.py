import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.http11 import Response
from websockets.uri import parse_uri

from transport.http import MAX_HEAD_BYTES, Heads, HttpError, Request, accept, credentials, parse, response, same_site

# RFC 6455 section 1.2.
HANDSHAKE = (
    b"GET /chat?token=a HTTP/1.1\r\nHost: server.example.com\r\nUpgrade: websocket\r\n"
    b"Connection: keep-alive, Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: http://server.example.com\r\n"
    b"Sec-WebSocket-Protocol: chat, superchat\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def _request(head: bytes) -> Request:
    parsed = parse(head)
    assert parsed is not None
    return parsed[0]


def test_the_handshake_of_the_rfc() -> None:
    request = _request(HANDSHAKE)
    assert (request.method, request.path, request.query, request.version) == ("GET", "/chat", "token=a", "1.1")
    assert request.upgrade
    assert request.headers["origin"] == "http://server.example.com"
    answer, subprotocol = accept(request, ["superchat"])
    assert subprotocol == "superchat"
    head, *fields = answer.decode().split("\r\n")
    assert head == "HTTP/1.1 101 Switching Protocols"
    assert "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in fields
    assert "Sec-WebSocket-Protocol: superchat" in fields
    assert fields[-2:] == ["", ""]


def test_the_library_s_client_is_content() -> None:
    client = ClientProtocol(parse_uri("ws://here/chat"), subprotocols=["chat"])  # type: ignore[list-item]
    client.send_request(client.connect())
    [head] = client.data_to_send()
    answer, subprotocol = accept(_request(head), ["chat"])
    client.receive_data(answer)
    [event] = client.events_received()
    assert isinstance(event, Response)
    assert client.handshake_exc is None
    assert client.subprotocol == subprotocol == "chat"


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [
        (None, None),
        ("b", "b"),
        ("a,b", "a"),
        ("b , a", "b"),
        ("other, b", "b"),
        ("other", None),
        ("", None),
    ],
)
def test_the_client_s_first_known_subprotocol_is_chosen(offered: str | None, chosen: str | None) -> None:
    head = HANDSHAKE.replace(
        b"Sec-WebSocket-Protocol: chat, superchat\r\n",
        b"" if offered is None else b"Sec-WebSocket-Protocol: " + offered.encode() + b"\r\n",
    )
    answer, subprotocol = accept(_request(head), ["a", "b"])
    assert subprotocol == chosen
    assert (b"Sec-WebSocket-Protocol" in answer) == (chosen is not None)


@pytest.mark.parametrize(
    ("old", "new", "status"),
    [
        (b"GET", b"POST", 405),
        (b"HTTP/1.1", b"HTTP/1.0", 400),
        (b"Host: server.example.com\r\n", b"", 400),
        (b"Host: server.example.com\r\n", b"Host: server.example.com\r\nHost: other.example\r\n", 400),
        (b"Version: 13", b"Version: 8", 426),
        (b"Sec-WebSocket-Version: 13\r\n", b"", 426),
        (b"dGhlIHNhbXBsZSBub25jZQ==", b"c2hvcnQ=", 400),
        (b"dGhlIHNhbXBsZSBub25jZQ==", b"%%%", 400),
        (b"dGhlIHNhbXBsZSBub25jZQ==", b"\xff", 400),
        (b"Origin: http://server.example.com", b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", 400),
    ],
)
def test_a_wrong_handshake_is_told_why(old: bytes, new: bytes, status: int) -> None:
    assert old in HANDSHAKE
    with pytest.raises(HttpError) as caught:
        accept(_request(HANDSHAKE.replace(old, new)), [])
    assert caught.value.status == status
    if status == 426:
        assert b"\r\nSec-WebSocket-Version: 13\r\n" in caught.value.response()


@pytest.mark.parametrize("missing", [b"Upgrade: websocket\r\n", b"Connection: keep-alive, Upgrade\r\n"])
def test_half_an_upgrade_is_none(missing: bytes) -> None:
    assert not _request(HANDSHAKE.replace(missing, b"")).upgrade


@given(st.integers(0, len(HANDSHAKE) - 1))
def test_a_head_that_is_not_complete_waits(size: int) -> None:
    assert size == 0 or parse(HANDSHAKE[:size]) is None


def test_what_follows_the_head_is_left() -> None:
    parsed = parse(HANDSHAKE + b"\x81\x00")
    assert parsed is not None
    assert parsed[1] == len(HANDSHAKE)


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc",  # TLS
        b"\r\n\r\n",
        b"get / HTTP/1.1\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET / HTTP/2\r\n\r\n",
        b"GET http://else.where/ HTTP/1.1\r\n\r\n",
        b"GET /a b HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nspace : x\r\n\r\n",
        b"GET / HTTP/1.1\r\n folded: x\r\n\r\n",
        b"GET / HTTP/1.1\r\na: \x00\r\n\r\n",
        b"GET / HTTP/1.1\na: b\r\n\r\n",
        b"GET / HTTP/1.1\r\na: b\nc: d\r\n\r\n",
        b"A" * MAX_HEAD_BYTES,
        b"GET / HTTP/1.1\r\na: " + b"b" * MAX_HEAD_BYTES + b"\r\n\r\n",
        b"GET / HTTP/1.1" + b"\r\na: b" * 101 + b"\r\n\r\n",
    ],
)
def test_garbage_is_refused(garbage: bytes) -> None:
    with pytest.raises(HttpError) as caught:
        parse(garbage)
    assert caught.value.status == (431 if (b"b" in garbage and len(garbage) > 100) or garbage[:2] == b"AA" else 400)


@given(st.binary(max_size=100))
def test_nothing_else_is_ever_raised(data: bytes) -> None:
    for head in (data, b"GET /" + data + b" HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\n" + data + b"\r\n\r\n"):
        try:
            parse(head)
        except HttpError as error:
            assert error.status == 400


def test_an_answer_says_what_it_is_and_that_it_is_the_last() -> None:
    assert response(200, "text/plain", b"ok").split(b"\r\n") == [
        b"HTTP/1.1 200 OK",
        b"Content-Type: text/plain",
        b"Content-Length: 2",
        b"Cache-Control: no-store",
        b"Connection: close",
        b"",
        b"ok",
    ]


@pytest.mark.parametrize(("status", "code"), [(404, "not_found"), (400, "bad_request"), (500, "internal")])
def test_an_error_is_json_with_the_contract_s_code(status: int, code: str) -> None:
    answer = HttpError(status, "said so").response()
    assert json.loads(answer.partition(b"\r\n\r\n")[2]) == {"error": {"code": code, "message": "said so"}}


@pytest.mark.parametrize(
    ("origin", "host", "allowed"),
    [
        ("http://127.0.0.1:8765", "127.0.0.1:8765", True),
        ("http://localhost:3000", "127.0.0.1:8765", True),
        ("http://LOCALHOST", "[::1]:8765", True),
        ("https://shop.example", "shop.example", True),
        ("https://shop.example:8443", "shop.example", False),
        ("https://evil.example", "127.0.0.1:8765", False),
        ("https://localhost.evil.example", "localhost:8765", False),
        ("http://localhost", "shop.example", False),
        ("null", "127.0.0.1:8765", False),
    ],
)
def test_pages_of_other_sites_are_refused(origin: str, host: str, allowed: bool) -> None:
    assert same_site(origin, host) is allowed


def _knock(query: str, authorization: str | None = None) -> Request:
    headers = {"host": "here"} | ({} if authorization is None else {"authorization": authorization})
    return Request("GET", "/ws", query, "1.1", headers)


@pytest.mark.parametrize(
    ("query", "who"),
    [
        ("", None),
        ("token=a", None),
        ("superuser=a", None),
        ("user=alice", "alice"),
        ("token=user&user=alice", "alice"),
        ("user=a%40b", "a@b"),
        ("user=a%2540b%252Ec", "a%40b%2Ec"),
    ],
)
def test_who_a_query_says_the_client_is(query: str, who: str | None) -> None:
    assert credentials(_knock(query))[0] == who


@pytest.mark.parametrize(
    "query", ["user=", "user", "user=a&user=b", "user=a.b", "user=a+b", "user=%C3%A4", "user=%FF", "token=a&token=a"]
)
def test_a_query_that_names_no_user_is_refused(query: str) -> None:
    with pytest.raises(HttpError) as caught:
        credentials(_knock(query))
    assert caught.value.status == 400


@pytest.mark.parametrize(
    ("query", "authorization", "token", "in_query"),
    [
        ("", None, None, False),
        ("", "Bearer a.b-c", "a.b-c", False),
        ("", "bearer  a", "a", False),
        ("", "Basic YTpi", None, False),
        ("", "Bearer", None, False),
        ("", "Bearer ", None, False),
        ("", "Bearera", None, False),
        ("token=a", None, "a", True),
        ("token=a%2Eb", "Basic YTpi", "a.b", True),
        ("token=", None, "", True),
        ("TOKEN=a", None, None, False),
    ],
)
def test_the_token_of_a_handshake(query: str, authorization: str | None, token: str | None, in_query: bool) -> None:
    assert credentials(_knock(query, authorization)) == (None, token, in_query)


def test_a_token_is_given_once() -> None:
    with pytest.raises(HttpError) as caught:
        credentials(_knock("token=a", "Bearer a"))
    assert caught.value.status == 400


KEYS = st.sampled_from(
    [b"dGhlIHNhbXBsZSBub25jZQ==", b"MDEyMzQ1Njc4OWFiY2RlZg==", b"AAAA", b"", b"\x00" * 24, b"a" * 24]
)
LINES = st.sampled_from(
    [b"Sec-WebSocket-Key: %b", b"Sec-WebSocket-Key: %b,more", b"sec-websocket-key:%b", b"Host: a", b"Cookie: a", b"bad"]
)
ENDS = st.sampled_from([b"\r\n\r\n", b"\r\n\r\n", b"\r\n\r\n\x81\x80", b"\r\n", b" \r\n\r\n"])


@given(
    st.lists(st.tuples(st.sampled_from([b"/ws", b"/ws?a=b"]), st.lists(LINES, max_size=4), ENDS), max_size=3), st.data()
)
def test_a_head_that_is_known_reads_like_any_other(
    heads: list[tuple[bytes, list[bytes], bytes]], data: st.DataObject
) -> None:
    known = Heads()
    for path, lines, end in heads * 2:
        filled = [line % data.draw(KEYS) if b"%b" in line else line for line in lines]
        head = b"\r\n".join([b"GET %b HTTP/1.1" % path, *filled]) + end
        outcomes: list[object] = []
        for read in (known.parse, parse):
            try:
                outcomes.append(read(head))
            except HttpError as error:
                outcomes.append(str(error))
        assert outcomes[0] == outcomes[1]


def test_few_heads_are_remembered_and_none_with_a_secret() -> None:
    known = Heads()
    template = "GET /ws%s HTTP/1.1\r\nHost: h%d\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n%s\r\n"
    for n in range(200):
        known.parse((template % ("", n, "")).encode())
        assert 0 < len(known._known) <= 64
    known = Heads()
    for query, more in (
        ("?token=a", ""),
        ("", "Authorization: Bearer a\r\n"),
        ("", "Cookie: a\r\n"),
        ("", f"A: {'a' * 1024}\r\n"),
    ):
        known.parse((template % (query, 1, more)).encode())
    assert not known._known
