"""What does it cost to find who wants an event, by its fields?

100,000 and 1,000,000 filtered subscriptions to one pattern, by symbol (500; none, one, 5 or 20 of them), pattern (20),
tier (3) and a least confidence: of 100 values, or all different. ``match``: one iteration finds the subscriptions that
accept one event, without any cache. ``listing``: makes a list of those of one event. ``hit``: what an event costs whose
class is in a cache, without decoding. ``decode``: takes the four fields out of the JSON. ``parse``: makes a filter of a
`where`. ``subscribe``, ``unsubscribe``: a subscription at a random place of the full index joins or leaves, its parsed
filter at hand. Bytes per subscription are the process's resident memory, with owner and filter.
"""

from __future__ import annotations

import gc
import json
import random
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


@pytest.fixture(scope="module", params=SIZES)
def full(request: pytest.FixtureRequest) -> Iterator[Full]:
    size, thresholds = request.param.split("-")
    count = {"100k": 100_000, "1M": 1_000_000}[size]
    rng = random.Random(1)
    index: FilterIndex[Subscription] = FilterIndex()
    owners: list[Subscription] = []
    gc.collect()
    gc.freeze()
    before = psutil.Process().memory_info().rss
    for _ in range(count):
        owner = Subscription(None, Filter.parse(where(rng, distinct=thresholds == "distinct")))  # type: ignore[arg-type]
        owners.append(owner)
        index.add(owner)
    gc.collect()
    each = (psutil.Process().memory_info().rss - before) / count
    print(f"\n{request.param}: {each:.0f} bytes of resident memory a subscription")
    values = [(rng.random(), rng.choice(PATTERNS), rng.choice(SYMBOLS), rng.choice(TIERS)) for _ in range(500)]
    yield Full(index, owners, values, [index.classify(some) for some in values])
    gc.unfreeze()


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
