from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport.peers import MAX_HOPS, Proxies, is_here, network


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        (None, "10.0.0.1"),
        ("203.0.113.7", "203.0.113.7"),
        ("6.6.6.6, 203.0.113.7", "203.0.113.7"),  # what is left of it the client has written
        ("203.0.113.7, 10.0.0.2", "203.0.113.7"),
        ("203.0.113.7,10.0.0.2\t, 10.9.9.9", "203.0.113.7"),
        ("nonsense, 203.0.113.7", "203.0.113.7"),
        ("2001:db8::7", "2001:db8::7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("10.0.0.3, 10.0.0.2", "10.0.0.3"),  # all of them trusted: the first
        ("", "10.0.0.1"),
        ("nonsense", "10.0.0.1"),
        ("203.0.113.7, nonsense", "10.0.0.1"),
        ("203.0.113.7, nonsense, 10.0.0.2", "10.0.0.1"),
        ("203.0.113.7:80", "10.0.0.1"),
        (",", "10.0.0.1"),
        (", ".join(["203.0.113.7"] + ["10.0.0.2"] * MAX_HOPS), "10.0.0.1"),
    ],
)
def test_the_right_most_that_is_no_proxy(forwarded: str | None, client: str) -> None:
    assert Proxies(["10.0.0.0/8"]).client("10.0.0.1", forwarded) == client


def test_the_word_of_others_does_not_count() -> None:
    assert Proxies(["10.0.0.0/8"]).client("198.51.100.1", "1.2.3.4") == "198.51.100.1"
    assert Proxies().client("127.0.0.1", "1.2.3.4") == "127.0.0.1"


def test_what_is_a_proxy() -> None:
    proxies = Proxies(["10.0.0.0/8", "::1", "2001:db8::/32"])
    assert [proxies.trusts(host) for host in ("10.1.2.3", "::ffff:10.1.2.3", "::1", "2001:db8::9")] == [True] * 4
    assert [proxies.trusts(host) for host in ("11.0.0.1", "::2", "a name", "")] == [False] * 4
    with pytest.raises(ValueError, match=r"10\.0\.0\.1/8"):
        Proxies(["10.0.0.1/8"])


def test_one_customer_is_one_address() -> None:
    assert network("2001:db8:1:2:3::4") == network("2001:db8:1:2:ffff::") != network("2001:db8:1:3::")
    assert network("::ffff:10.0.0.1") == network("10.0.0.1") != network("10.0.0.2")
    assert network("what is none") == "what is none"


def test_here() -> None:
    assert all(map(is_here, ("127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1")))
    assert not any(map(is_here, ("10.0.0.1", "::2", "")))


@given(st.text(max_size=60))
def test_no_header_raises(forwarded: str) -> None:
    assert Proxies(["10.0.0.0/8"]).client("10.0.0.1", forwarded)
