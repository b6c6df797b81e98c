from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from actors.neighbours import Neighbours


def _of(host: str) -> Any:
    return SimpleNamespace(connection=SimpleNamespace(host=host))


def test_so_many_from_one_address() -> None:
    one, two, third = (_of("10.0.0.1") for _ in range(3))
    neighbours = Neighbours(2)
    assert [neighbours.came(session) for session in (one, two, third)] == [True, True, False]
    assert neighbours.came(_of("10.0.0.2"))
    neighbours.went(third)
    neighbours.went(one)
    assert neighbours.came(third)


def test_of_ipv6_a_network_is_one() -> None:
    neighbours = Neighbours(1)
    assert neighbours.came(_of("2001:db8::1"))
    assert not neighbours.came(_of("2001:db8::2"))
    assert neighbours.came(_of("2001:db8:0:1::1"))


def test_who_is_there_counts_from_the_start() -> None:
    here = [_of("10.0.0.1"), _of("10.0.0.1")]
    neighbours = Neighbours(2, here)
    assert not neighbours.came(_of("10.0.0.1"))


def test_nothing_stays() -> None:
    neighbours, session = Neighbours(1), _of("10.0.0.1")
    for _ in range(3):
        assert neighbours.came(session)
        neighbours.went(session)
    assert not neighbours._counts


def test_without_a_limit_nobody_is_asked() -> None:
    assert Neighbours(None).came(_of(""))
