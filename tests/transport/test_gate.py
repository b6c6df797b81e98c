from __future__ import annotations

import pytest

from transport import gate as module
from transport.gate import Gate, GatePolicy
from transport.http import HttpError, Request

ELSEWHERE = "203.0.113.7"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def _gate(**policy: object) -> tuple[Gate, Clock]:
    clock = Clock()
    return Gate(GatePolicy(**policy), clock), clock  # type: ignore[arg-type]


def _request(**headers: str) -> Request:
    upgrade = {"upgrade": "websocket", "connection": "Upgrade", "host": "shop.example"}
    return Request("GET", "/ws", "", "1.1", upgrade | {name.replace("_", "-"): v for name, v in headers.items()})


def _refused(gate: Gate, peer: str, request: Request) -> HttpError:
    with pytest.raises(HttpError) as caught:
        gate.admit(peer, request)
    return caught.value


# connections from one address


def test_without_a_rate_everybody_may() -> None:
    gate, _ = _gate()
    assert not any(gate.wait(ELSEWHERE) for _ in range(10_000))


def test_an_address_has_its_rate_and_others_theirs() -> None:
    gate, clock = _gate(connect_rate=5.0)
    assert [gate.wait(ELSEWHERE) == 0.0 for _ in range(7)] == [True] * 5 + [False] * 2
    assert gate.wait("203.0.113.8") == 0.0
    clock.now = 0.2
    assert [gate.wait(ELSEWHERE) == 0.0 for _ in range(2)] == [True, False]


def test_addresses_of_one_customer_are_one() -> None:
    gate, _ = _gate(connect_rate=1.0)
    assert gate.wait("2001:db8::1") == 0.0
    assert gate.wait("2001:db8::2") > 0.0


def test_a_bounded_number_of_addresses_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ADDRESSES", 3)
    gate, _ = _gate(connect_rate=1.0)
    for last in (1, 2, 3, 1, 4):  # the fourth displaces the second
        gate.wait(f"10.0.0.{last}")
    assert len(gate._buckets) == 3
    assert gate.wait("10.0.0.1") > 0.0
    assert gate.wait("10.0.0.2") == 0.0


def test_a_proxys_clients_are_counted_not_the_proxy() -> None:
    gate, _ = _gate(connect_rate=1.0, trusted_proxies=("10.0.0.0/8",))
    for last in range(100):
        assert gate.wait("10.0.0.1") == 0.0
        assert gate.admit("10.0.0.1", _request(x_forwarded_for=f"203.0.113.{last}")) == f"203.0.113.{last}"
    error = _refused(gate, "10.0.0.1", _request(x_forwarded_for="203.0.113.5"))
    assert (error.status, error.headers) == (429, (("Retry-After", "1"),))
    assert b'"rate_limited"' in error.response()


def test_who_is_no_proxy_cannot_say_where_it_is_from() -> None:
    gate, _ = _gate(trusted_proxies=("10.0.0.0/8",))
    assert gate.admit(ELSEWHERE, _request(x_forwarded_for="1.2.3.4")) == ELSEWHERE


# origins


@pytest.mark.parametrize(
    ("origin", "host", "peer", "allowed"),
    [
        ("https://shop.example", "shop.example", ELSEWHERE, True),
        ("https://evil.example", "shop.example", ELSEWHERE, False),
        ("null", "shop.example", ELSEWHERE, False),
        ("http://localhost:3000", "127.0.0.1:8765", "127.0.0.1", True),
        ("http://localhost:3000", "shop.example", ELSEWHERE, False),
        # a page of evil.example whose name leads to this machine by now
        ("http://evil.example:8765", "evil.example:8765", "127.0.0.1", False),
        ("http://evil.example:8765", "evil.example:8765", "::1", False),
    ],
)
def test_pages_by_default(origin: str, host: str, peer: str, allowed: bool) -> None:
    gate, _ = _gate()
    request = _request(origin=origin, host=host)
    if allowed:
        assert gate.admit(peer, request) == peer
    else:
        assert _refused(gate, peer, request).status == 403


def test_a_trusted_proxy_on_this_machine_passes_the_host_on() -> None:
    gate, _ = _gate(trusted_proxies=("127.0.0.1",))
    request = _request(origin="https://shop.example", x_forwarded_for=ELSEWHERE)
    assert gate.admit("127.0.0.1", request) == ELSEWHERE


def test_a_list_is_all_there_is() -> None:
    gate, _ = _gate(origins=("https://app.example", "http://localhost:3000"))
    for origin in ("https://app.example", "HTTPS://App.example", "http://localhost:3000"):
        gate.admit("127.0.0.1", _request(origin=origin))
    for origin in ("https://shop.example", "http://app.example", "https://app.example:444", "http://localhost"):
        assert _refused(gate, ELSEWHERE, _request(origin=origin)).status == 403


@pytest.mark.parametrize("origins", [None, ("https://app.example",), ()])
def test_the_engines_own_pages_may(origins: tuple[str, ...] | None) -> None:
    gate, _ = _gate(origins=origins, admin_port=8766)
    for host in ("shop.example:8765", "shop.example", "Shop.Example:443"):
        gate.admit(ELSEWHERE, _request(origin="https://shop.example:8766", host=host))
    for origin in ("https://shop.example:8767", "https://evil.example:8766", "shop.example:8766", "null"):
        assert _refused(gate, ELSEWHERE, _request(origin=origin, host="shop.example:8765")).status == 403
    gate.admit("::1", _request(origin="http://[::1]:8766", host="[::1]:8765"))
    rebound = _request(origin="http://evil.example:8766", host="evil.example:8765")
    assert _refused(gate, "127.0.0.1", rebound).status == 403


def test_all_may_if_that_is_said() -> None:
    gate, _ = _gate(origins=("*",))
    gate.admit("127.0.0.1", _request(origin="https://anything.example"))


def test_programs_have_no_origin_and_plain_requests_need_none() -> None:
    gate, _ = _gate(origins=())
    gate.admit(ELSEWHERE, _request())
    health = Request("GET", "/health", "", "1.1", {"host": "shop.example", "origin": "https://evil.example"})
    gate.admit(ELSEWHERE, health)


def test_another_policy() -> None:
    gate, _ = _gate(connect_rate=1.0)
    gate.wait(ELSEWHERE)
    gate.configure(GatePolicy(connect_rate=1.0, origins=("https://app.example",)))
    assert gate.wait(ELSEWHERE) == 0.0
    assert _refused(gate, ELSEWHERE, _request(origin="https://shop.example")).status == 403
