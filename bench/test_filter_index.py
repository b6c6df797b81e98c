"""What does it cost to find who wants an event, by its fields?

100,000 and 1,000,000 filtered subscriptions to one pattern, by symbol (500; none, one, 5 or 20 of them), pattern (20),
tier (3) and a least confidence: of 100 values, or all different. ``match``: one iteration finds the subscriptions that
accept one event, without any cache. ``listing``: makes a list of those of one event. ``hit``: what an event costs whose
class is in a cache, without decoding. ``decode``: takes the four fields out of the JSON. ``parse``: makes a filter of a
`where`. ``subscribe``, ``unsubscribe``: a subscription at a random place of the full index joins or leaves, its parsed
filter at hand. ``memory``: resident bytes of a process per subscription, with owner and filter; printed with ``-s``.
"""

from __future__ import annotations

import gc
import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Any, NamedTuple

import psutil
import pytest

from actors.filter_index import FilterIndex, Key
from actors.subscription import Subscription
from transport.fields import Fields
from transport.filters import Filter
from transport.messages import Publication

SYMBOLS = [f"S{n}" for n in range(500)]
PATTERNS = [f"P{n}" for n in range(20)]
TIERS = ["daily", "intraday", "combo"]
CHURN = 100
SIZES = ["100k-few", "100k-distinct", "1M-few", "1M-distinct"]


class Full(NamedTuple):
    """An index, who is in it, and classes of events to ask it for."""

    index: FilterIndex[Subscription]
    owners: list[Subscription]
    values: list[tuple[Any, ...]]
    keys: list[Key]


def where(rng: random.Random, *, distinct: bool) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, values, counts in (
        ("symbol", SYMBOLS, (0, 1, 5, 20)),
        ("pattern", PATTERNS, (0, 1, 3)),
        ("tier", TIERS, (0, 1)),
    ):
        count = rng.choice(counts)
        if count:
            fields[name] = rng.sample(values, count) if count > 1 else rng.choice(values)
    if rng.random() < 0.75:
        fields["confidence"] = {"gte": round(rng.random(), 12) if distinct else rng.randrange(100) / 100}
    return fields


def fill(size: str) -> tuple[FilterIndex[Subscription], list[Subscription]]:
    """``1M-few``: a million subscriptions, few thresholds."""
    number, thresholds = size.split("-")
    count = {"100k": 100_000, "1M": 1_000_000}[number]
    rng = random.Random(1)
    index: FilterIndex[Subscription] = FilterIndex()
    owners: list[Subscription] = []
    for _ in range(count):
        owner = Subscription(None, Filter.parse(where(rng, distinct=thresholds == "distinct")))  # type: ignore[arg-type]
        owners.append(owner)
        index.add(owner)
    return index, owners


@pytest.fixture(scope="module", params=SIZES)
def full(request: pytest.FixtureRequest) -> Iterator[Full]:
    index, owners = fill(request.param)
    gc.collect()
    gc.freeze()  # as a worker does with what it starts with; else each full collection visits the million
    rng = random.Random(3)
    values = [(rng.random(), rng.choice(PATTERNS), rng.choice(SYMBOLS), rng.choice(TIERS)) for _ in range(500)]
    yield Full(index, owners, values, [index.classify(some) for some in values])
    gc.unfreeze()


@pytest.mark.parametrize("size", SIZES)
def test_memory(size: str) -> None:
    """In a process of its own, whose memory nothing else has grown."""
    command = [sys.executable, "-m", "bench.test_filter_index", size]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    print(f"\n{ran.stdout}", end="")
    assert int(ran.stdout.split()[0]) < 450


def test_match(measure: Callable[..., Any], full: Full) -> None:
    keys = cycle(full.keys)
    found = measure(lambda: full.index.match(next(keys)), 1)
    assert 0 < len(found) < len(full.owners) / 5


def test_listing(measure: Callable[..., Any], full: Full) -> None:
    found = full.index.match(full.keys[0])
    assert len(measure(lambda: full.index.listed(found), 1)) == len(found)


def test_hit(measure: Callable[..., Any], full: Full) -> None:
    known = dict.fromkeys(full.keys, 1)
    values = full.values
    classify = full.index.classify
    assert measure(lambda: sum([known[classify(some)] for some in values]), len(values)) == len(values)


def test_decode(measure: Callable[..., Any]) -> None:
    fields = Fields(("confidence", "pattern", "symbol", "tier"))
    data = {
        "symbol": "S1",
        "pattern": "P1",
        "tier": "daily",
        "confidence": 0.875,
        "note": "x" * 40,
        "prices": [1.5] * 5,
    }
    publication = Publication("t", "e", 1, 1.0, "trade", json.dumps(data).encode())
    assert measure(lambda: fields.of(publication), 1) == (0.875, "P1", "S1", "daily")


def test_parse(measure: Callable[..., Any]) -> None:
    rng = random.Random(1)
    wheres = cycle([where(rng, distinct=True) for _ in range(2_000)])
    measure(lambda: Filter.parse(next(wheres)), 1)


@pytest.mark.parametrize("way", ["subscribe", "unsubscribe"])
def test_churn(measure: Callable[..., Any], full: Full, way: str) -> None:
    index, rng = full.index, random.Random(2)
    out: list[Subscription] = []

    def prepare() -> tuple[tuple[list[Subscription]], dict[str, Any]]:
        for owner in out:  # those who left in the round before
            index.add(owner)
        out[:] = chosen = rng.sample(full.owners, CHURN)
        if way == "subscribe":
            for owner in chosen:
                index.remove(owner)
            rng.shuffle(chosen)  # not into the places where they were
            out.clear()
        for owner in chosen:
            assert owner.filter is not None
            assert owner.filter.clauses
        return (chosen,), {}

    def join(chosen: list[Subscription]) -> None:
        for owner in chosen:
            index.add(owner)

    def leave(chosen: list[Subscription]) -> None:
        for owner in chosen:
            index.remove(owner)

    measure(join if way == "subscribe" else leave, CHURN, setup=prepare)
    for owner in out:
        index.add(owner)
    assert len(index) == len(full.owners)


def memory(size: str) -> int:
    """Resident bytes of one subscription with its filter, and what the index keeps of it."""
    gc.disable()
    before = psutil.Process().memory_info().rss
    _index, owners = fill(size)
    return round((psutil.Process().memory_info().rss - before) / len(owners))


if __name__ == "__main__":
    print(memory(sys.argv[1]), "bytes of resident memory a subscription:", sys.argv[1])
