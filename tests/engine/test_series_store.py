"""Series on disk against a list of all that was sampled."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.sqlite_file import Unusable
from engine import series
from engine.series import POINTS, TIERS, buckets, resolution, width
from engine.series_store import FORGOTTEN, SeriesStore, StoreError

NOW = 1_700_000_000_000  # ms
SECOND = 1_000
OpenStore = Callable[..., SeriesStore]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[OpenStore]:
    stores: list[SeriesStore] = []

    def open_store(path: Path | None = tmp_path / "state" / "metrics.db", interval: int = SECOND) -> SeriesStore:
        stores.append(SeriesStore(path, interval))
        return stores[-1]

    yield open_store
    for store in stores:
        store.close()


numbers = st.integers(-1_000, 1_000).map(float)
gaps = st.one_of(st.integers(1, 3), st.integers(8, 30), st.sampled_from([100, 250, 1_000, 2_500]))


@settings(max_examples=60, deadline=None)
@given(
    samples=st.lists(st.tuples(gaps, st.dictionaries(st.sampled_from("ab"), numbers)), min_size=1, max_size=60),
    first=st.integers(0, 12_000),
    back=st.integers(0, 900_000),
    length=st.integers(1, 900_000),
    points=st.integers(1, 40),
    reopen=st.integers(0, 60),
    interval=st.sampled_from([100, 700, SECOND]),
)
def test_what_is_read_is_what_was_sampled_in_that_time(
    tmp_path_factory: pytest.TempPathFactory,
    samples: list[tuple[int, dict[str, float]]],
    first: int,
    back: int,
    length: int,
    points: int,
    reopen: int,
    interval: int,
) -> None:
    """Least, mean and greatest of each point, over gaps, all tiers and a restart; nothing twice, nothing missing."""
    path = tmp_path_factory.mktemp("series") / "metrics.db"
    store = SeriesStore(path, interval)
    raw: list[tuple[int, dict[str, float]]] = []
    ts = NOW // interval * interval + first * interval
    for i, (gap, values) in enumerate(samples):
        ts += gap * interval
        raw.append((ts, values))
        store.add(ts + interval // 2, values)
        if i == reopen:
            store.close()
            store = SeriesStore(path, interval)
    start = ts - back * interval
    end = start + length * interval
    found, step = store.read(["a", "b", "c"], start, end, points)
    store.close()
    assert found["c"] == []
    begin = resolution(start, end, points, ts, interval).start
    kept = ts - (POINTS - 1) * width(interval, TIERS - 1)
    for name in "ab":
        expected: dict[int, list[float]] = {}
        for at, values in raw:
            if name in values and begin <= at and at // step * step <= end:
                expected.setdefault(at // step * step, []).append(values[name])
        assert len(found[name]) <= points
        assert [(at, low, high) for at, low, _, high in found[name] if at * 1000 >= kept] == [
            (at / 1000, min(values), max(values)) for at, values in expected.items() if at >= kept
        ]
        means = [mean for at, _, mean, _ in found[name] if at * 1000 >= kept]
        assert means == pytest.approx([sum(v) / len(v) for at, v in expected.items() if at >= kept])


@given(
    start=st.integers(0, 10**9), length=st.integers(0, 10**10), points=st.integers(1, 1_000), age=st.integers(0, 10**9)
)
def test_a_span_has_as_many_points_as_asked_for_at_most_and_is_whole(
    start: int, length: int, points: int, age: int
) -> None:
    end = start + length
    tier, step, begin = resolution(start, end, points, start + age, SECOND)
    assert step % width(SECOND, tier) == 0
    assert begin % step == 0
    assert begin <= max(start, min(end, start + age - POINTS * width(SECOND, TIERS - 1))) < begin + step
    assert 1 <= buckets(begin, end, step) <= points


def test_each_tier_keeps_its_points(opened: OpenStore, tmp_path: Path) -> None:
    store = opened(None)
    for i in range(1_500):
        store.add(NOW + i * SECOND, {"a": float(i)})
    now = NOW + 1_499 * SECOND
    found, step = store.read(["a"], now - 999 * SECOND, now, 1_000)
    assert (step, len(found["a"])) == (SECOND, POINTS)
    found, step = store.read(["a"], NOW, now, 1_000)
    assert (step, len(found["a"])) == (10 * SECOND, 150)
    assert found["a"][0] == (NOW / 1000, 0.0, 4.5, 9.0)
    assert found["a"][-1][1:] == (1_490.0, 1_494.5, 1_499.0)  # not over yet, but known
    assert store._one("SELECT count(*) FROM rows WHERE tier = 0") == POINTS


def test_samples_outlive_the_store_and_time_without_it(opened: OpenStore) -> None:
    store = opened()
    for i in range(25):
        store.add(NOW + i * SECOND, {"a": float(i), "old": 1.0})
    store.close()
    store = opened()
    assert store.names() == ["a", "old"]
    a_day = 86_400 * SECOND
    store.add(NOW + a_day, {"a": 100.0})
    found, step = store.read(["a"], NOW, NOW + a_day, 1_000)
    assert step == 100 * SECOND
    assert found["a"] == [(NOW / 1000, 0.0, 12.0, 24.0), ((NOW + a_day) / 1000, 100.0, 100.0, 100.0)]


def test_a_series_of_which_nothing_is_kept_is_forgotten(opened: OpenStore) -> None:
    store = opened(None)
    store.add(NOW, {"old": 1.0, "a": 1.0})
    later = NOW + 3 * POINTS * width(SECOND, TIERS - 1)
    for i in range(201):
        store.add(later + i * SECOND, {"a": 2.0})
    assert store.names() == ["a"]


def test_a_clock_that_is_set_back_takes_the_future_with_it(opened: OpenStore) -> None:
    store = opened(None)
    for i in range(25):
        store.add(NOW + i * SECOND, {"a": float(i)})
    store.add(NOW + 12 * SECOND, {"a": 50.0})
    found, _ = store.read(["a"], NOW, NOW + 100 * SECOND, 200)
    assert [value for _, value, _, _ in found["a"]] == [*map(float, range(12)), 50.0]
    for i in range(13, 21):
        store.add(NOW + i * SECOND, {"a": float(i)})
    found, _ = store.read(["a"], NOW, NOW + 100 * SECOND, 11)
    assert found["a"][1] == ((NOW + 10 * SECOND) / 1000, 10.0, (10 + 11 + 50 + sum(range(13, 20))) / 10, 50.0)


def test_a_sample_of_a_clock_that_is_a_year_ahead_costs_next_to_nothing(opened: OpenStore) -> None:
    store = opened(None)
    for i in range(120):
        store.add(NOW + i * SECOND, {"a": float(i)})
    store.add(NOW + 365 * 86_400 * SECOND, {"a": -1.0})
    store.add(NOW + 120 * SECOND, {"a": 120.0})
    found, _ = store.read(["a"], NOW, NOW + 200 * SECOND, 300)
    assert [value for _, value, _, _ in found["a"]] == [*map(float, range(FORGOTTEN, 121))]


def test_a_span_of_thousands_of_years_is_soon_divided(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []

    def counting(start: int, end: int, step: int) -> int:
        looks.append(step)
        return buckets(start, end, step)

    monkeypatch.setattr(series, "buckets", counting)
    assert buckets(0, 10**14, resolution(0, 10**14, 1, NOW, 100).step) == 1
    assert len(looks) < 100


def test_what_is_refused_leaves_all_as_it_was(opened: OpenStore, tmp_path: Path) -> None:
    store = opened()
    store.add(NOW, {"a": 1.0})
    with sqlite3.connect(tmp_path / "state" / "metrics.db") as other:
        other.execute("CREATE TRIGGER full BEFORE INSERT ON rows BEGIN SELECT RAISE(FAIL, 'disk is full'); END")
        with pytest.raises(StoreError, match="disk is full"):
            store.add(NOW + SECOND, {"a": 2.0, "new": 1.0})
        other.execute("DROP TRIGGER full")
    other.close()
    assert store.names() == ["a"]
    store.add(NOW + 2 * SECOND, {"a": 3.0, "new": 2.0})
    found, _ = store.read(["a", "new"], NOW, NOW + 10 * SECOND, 100)
    assert [len(found[name]) for name in ("a", "new")] == [2, 1]


def test_files_that_are_something_else_are_left_alone(tmp_path: Path) -> None:
    text, foreign, newer = tmp_path / "text", tmp_path / "foreign.db", tmp_path / "newer.db"
    text.write_text("dear diary, " * 100)
    with sqlite3.connect(foreign) as db:
        db.execute("CREATE TABLE t (x)")
    db.close()
    SeriesStore(newer, SECOND).close()
    with sqlite3.connect(newer) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    for path, why in ((text, "not a database"), (foreign, "something else"), (newer, "another version")):
        before = path.read_bytes()
        with pytest.raises(Unusable, match=why):
            SeriesStore(path, SECOND)
        assert path.read_bytes() == before
    with pytest.raises(Unusable, match="cannot be opened"):
        SeriesStore(tmp_path / "text" / "below" / "metrics.db", SECOND)
