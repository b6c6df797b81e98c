"""What every history keeps, held against a plain dict; and what only one on a disk or behind a socket can get wrong."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actors.history import KEY_LIFETIME, Accepted, Expired, Head, History
from actors.redis_history import BackplaneError, RedisHistory
from actors.sqlite_history import SCHEMA_VERSION, SqliteHistory
from actors.topic_log import TopicLog
from actors.topic_policy import TopicPolicies, TopicPolicy
from tests.feeds.redis_server import RedisServer
from tests.feeds.redis_server import redis_server as redis_server
from transport.codec import join, pack, unpack_batch
from transport.codes import ErrorCode
from transport.errors import ConfigError, RequestError
from transport.messages import Publication, Publish

NOW = 1_790_000_000.0
LIMIT = 10_000
CHILD_S = 30.0
POLICIES = TopicPolicies(
    {
        "small": TopicPolicy(history_size=3, history_age_s=None),
        "brief": TopicPolicy(history_age_s=10.0),
        "none": TopicPolicy(history_size=0),
    },
    TopicPolicy(history_age_s=None),
)

_epochs = (f"epoch{n}" for n in itertools.count())
Open = Callable[..., History]


def event(topic: str, data: str = "1", key: str | None = None, **fields: str) -> Publish:
    return Publish(0, topic, "t", data.encode(), idempotency_key=key, **fields)


def published(history: History, *publishes: Publish, now: float = NOW) -> list[Accepted]:
    results = history.append(publishes, now)
    assert len(results) == len(publishes)
    accepted = [result for result in results if isinstance(result, Accepted)]
    assert len(accepted) == len(results), results
    return accepted


def unpacked(items: list[bytes]) -> list[Publication]:
    return unpack_batch(join(items))


def kept(history: History, topic: str, after: int = 0) -> list[tuple[int, bytes]]:
    return [(p.offset, p.data) for p in unpacked(history.read(topic, after, LIMIT))]


def head(history: History, topic: str) -> Head:
    return next(each for each in history.heads() if each.topic == topic)


@pytest.fixture
def sqlite_place(tmp_path: Path) -> Path:
    return tmp_path / "state" / "history.db"


@pytest.fixture
def redis_place(redis_server: Callable[..., RedisServer]) -> str:
    return redis_server().url


@pytest.fixture
def sqlite_open(sqlite_place: Path) -> Iterator[Open]:
    opened: list[History] = []

    def open_it(max_topics: int = 50, path: Path = sqlite_place) -> History:
        opened.append(SqliteHistory(path, POLICIES, max_topics, lambda: next(_epochs)))
        return opened[-1]

    yield open_it
    for history in opened:
        history.close()


@pytest.fixture
def redis_open(redis_place: str) -> Iterator[Open]:
    opened: list[History] = []

    def open_it(max_topics: int = 50, prefix: str = "test") -> History:
        opened.append(RedisHistory(redis_place, None, prefix, POLICIES, max_topics, lambda: next(_epochs)))
        return opened[-1]

    yield open_it
    for history in opened:
        history.close()


@pytest.fixture
def memory_open(tmp_path: Path) -> Iterator[Open]:
    opened: list[History] = []

    def open_it(max_topics: int = 50) -> History:
        log = TopicLog(max_topics, lambda: next(_epochs), directory=tmp_path / "log", policies=POLICIES)
        opened.append(log)
        return log

    yield open_it
    opened[-1].close()


@pytest.fixture(params=["memory", "sqlite", "redis"])
def opener(request: pytest.FixtureRequest) -> Open:
    fixture: Open = request.getfixturevalue(f"{request.param}_open")
    return fixture


def test_offsets_rise_by_one_per_topic_and_marks_over_all(opener: Open) -> None:
    history = opener()
    accepted = published(history, *(event(topic, f"{n}") for n in range(5) for topic in ("a", "b.c")), event("a", "5"))
    assert [(a.publication.topic, a.publication.offset) for a in accepted if a.publication.topic == "b.c"] == [
        ("b.c", n) for n in range(1, 6)
    ]
    assert [a.publication.offset for a in accepted if a.publication.topic == "a"] == [1, 2, 3, 4, 5, 6]
    assert [a.mark for a in accepted] == sorted({a.mark for a in accepted})
    assert all(unpacked([a.packed]) == [a.publication] for a in accepted)
    assert kept(history, "a") == [(n + 1, b"%d" % n) for n in range(6)]
    assert kept(history, "a", 4) == [(5, b"4"), (6, b"5")]
    assert [p.offset for p in unpacked(history.read("a", 1, 2))] == [2, 3]
    assert history.read("a", 6, 10) == history.read("nobody", 0, 10) == []
    assert (history.first("a"), history.first("nobody")) == (1, 1)


def test_fields_come_back_as_they_came(opener: Open) -> None:
    history = opener()
    full = Publish(9, "a", "tick", b'{"x":1.10}', "k", "high", 12.5)
    (accepted,) = published(history, full)
    (back,) = unpacked(history.read("a", 0, 1))
    assert back == accepted.publication
    assert back[4:] == ("tick", b'{"x":1.10}', "k", "high", 12.5)
    assert back.ts == NOW


def test_the_whole_log_is_read_behind_a_mark(opener: Open) -> None:
    history = opener()
    assert history.tail(0, 10) == []
    accepted = published(history, *(event(topic) for _ in range(4) for topic in ("a", "b")))
    assert history.tail(0, 100) == [(a.mark, a.packed) for a in accepted]
    assert history.tail(accepted[2].mark, 3) == [(a.mark, a.packed) for a in accepted[3:6]]
    assert history.tail(accepted[-1].mark, 3) == []
    with pytest.raises(Expired):
        history.tail(accepted[-1].mark + 1, 3)


def test_size_trims_the_oldest(opener: Open) -> None:
    history = opener()
    published(history, *(event("small", f"{n}") for n in range(10)), *(event("large") for _ in range(10)))
    history.trim(NOW)
    assert kept(history, "small") == [(8, b"7"), (9, b"8"), (10, b"9")]
    assert (history.first("small"), history.first("large")) == (8, 1)
    assert len(kept(history, "large")) == 10
    assert head(history, "small").offset == 10


def test_age_trims_the_oldest(opener: Open) -> None:
    history = opener()
    for second in range(6):
        published(history, event("brief", f"{second}"), event("large"), now=NOW + second)
    history.trim(NOW + 12.5)
    assert kept(history, "brief") == [(4, b"3"), (5, b"4"), (6, b"5")]
    assert len(kept(history, "large")) == 6


def test_a_topic_that_was_trimmed_empty_goes_on(opener: Open) -> None:
    history = opener()
    (before,) = published(history, event("none"))
    history.trim(NOW)
    assert history.read("none", 0, 10) == []
    assert history.first("none") == 2
    history.close()
    history = opener()
    (after,) = published(history, event("none"))
    assert (after.publication.epoch, after.publication.offset) == (before.publication.epoch, 2)


def test_everything_is_there_when_it_is_opened_again(opener: Open) -> None:
    history = opener()
    accepted = published(history, *(event(topic) for _ in range(4) for topic in ("a", "b")))
    history.close()
    history = opener()
    assert history.tail(0, 100) == [(a.mark, a.packed) for a in accepted]
    assert {h.topic: (h.epoch, h.offset, h.last) for h in history.heads()} == {
        a.publication.topic: (a.publication.epoch, 4, a.publication) for a in accepted[-2:]
    }
    (more,) = published(history, event("a"))
    assert more.publication.offset == 5
    assert more.publication.epoch == accepted[0].publication.epoch
    assert more.mark > accepted[-1].mark


def test_a_key_is_one_event(opener: Open) -> None:
    history = opener()
    first, again = published(history, event("a", "1", "k"), event("a", "2", "k"))
    assert (first.again, again.again) == (False, True)
    assert again.publication[:3] == first.publication[:3]
    other_topic, other_key = published(history, event("b", "1", "k"), event("a", "3", "l"))
    assert not other_topic.again
    assert not other_key.again
    history.close()
    history = opener()
    (later,) = published(history, event("a", "4", "k"), now=NOW + KEY_LIFETIME / 2)
    assert later.again
    assert later.publication[:3] == first.publication[:3]
    assert kept(history, "a") == [(1, b"1"), (2, b"3")]


def test_topics_are_limited_and_the_others_go_on(opener: Open) -> None:
    history = opener(2)
    results = history.append([event("a"), event("b"), event("c"), event("a"), event("c")], NOW)
    assert [isinstance(result, Accepted) for result in results] == [True, True, False, True, False]
    assert isinstance(results[2], RequestError)
    assert (results[2].code, results[2].field) == (ErrorCode.LIMIT_EXCEEDED, "topic")
    assert {h.topic for h in history.heads()} == {"a", "b"}


def test_time_never_falls(opener: Open) -> None:
    history = opener()
    times = [published(history, event("a"), now=NOW + d)[0].publication.ts for d in (0.25, -100, 0.5)]
    assert times == [NOW + 0.25, NOW + 0.25, NOW + 0.5]
    history.close()
    assert published(opener(), event("a"), now=NOW)[0].publication.ts == NOW + 0.5


def test_a_clock_that_was_set_back_forgets_no_key(opener: Open) -> None:
    history = opener()
    for offset, now in enumerate((NOW, NOW - 1e6, NOW + 1.0), 1):
        published(history, event("a", key=f"k{offset}"), now=now)
        for known in range(1, offset + 1):
            (again,) = published(history, event("a", key=f"k{known}"), now=now)
            assert (again.again, again.publication.offset) == (True, known)


def test_two_that_have_it_open_share_one_order(sharing: Open) -> None:
    one, other = sharing(3), sharing(3)
    offsets = [published(h, event("a"))[0].publication.offset for h in (one, other, other, one, one, other)]
    assert offsets == [1, 2, 3, 4, 5, 6]
    published(other, event("b", key="k"), event("c"))
    assert published(one, event("b", key="k"))[0].again
    assert isinstance(one.append([event("d")], NOW)[0], RequestError)
    one.trim(NOW)
    assert len(one.tail(0, 100)) == len(other.tail(0, 100)) == 8


@pytest.fixture(params=["sqlite", "redis"])
def sharing(request: pytest.FixtureRequest) -> Open:
    fixture: Open = request.getfixturevalue(f"{request.param}_open")
    return fixture


_topics = st.sampled_from(["a", "small", "brief"])
_steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.lists(st.tuples(_topics, st.sampled_from([None, None, "k", "l"])), max_size=8)),
        st.tuples(st.just("wait"), st.floats(-5, 8)),
        st.tuples(st.just("trim"), st.none()),
        st.tuples(st.just("reopen"), st.none()),
    ),
    max_size=20,
)


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_as_a_dict_would(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    opener: Open = request.getfixturevalue(f"{kind}_open")
    names = itertools.count()

    @settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(_steps)
    def check(steps: list[tuple[str, object]]) -> None:
        name = f"x{next(names)}"
        place = {"path": tmp_path / f"{name}.db"} if kind == "sqlite" else {"prefix": name}
        history = opener(**place)
        oracle: dict[str, list[tuple[int, float]]] = {}
        gone: dict[str, int] = {}
        keys: dict[tuple[str, str], int] = {}
        now = NOW
        for step, value in steps:
            if step == "append":
                wanted = [event(topic, key=key) for topic, key in value]  # type: ignore[attr-defined]
                for publish, result in zip(wanted, published(history, *wanted, now=now), strict=True):
                    log = oracle.setdefault(publish.topic, [])
                    known = keys.get((publish.topic, publish.idempotency_key or ""))
                    assert result.again == (known is not None)
                    if known is None:
                        log.append((len(log) + 1, max([now, *(ts for _, ts in log)])))
                        known = len(log)
                        assert result.publication.ts == log[-1][1]
                        if publish.idempotency_key:
                            keys[publish.topic, publish.idempotency_key] = known
                    assert result.publication.offset == known
            elif step == "wait":
                now += value  # type: ignore[operator]
            elif step == "reopen":
                history.close()
                history = opener(**place)
            else:
                history.trim(now)
                for topic, log in oracle.items():
                    policy = POLICIES.of(topic)
                    before = float("-inf") if policy.history_age_s is None else now - policy.history_age_s
                    due = [o for o, ts in log if o <= len(log) - policy.history_size or ts <= before]
                    gone[topic] = max([gone.get(topic, 0), *due])
            for topic, log in oracle.items():
                left = [o for o, _ in log if o > gone.get(topic, 0)]
                got = [p.offset for p in unpacked(history.read(topic, 0, LIMIT))]
                assert got[len(got) - len(left) :] == left
                assert got == left or step != "trim"
                assert history.first(topic) == (got[0] if got else len(log) + 1)
        assert {h.topic: h.offset for h in history.heads()} == {t: len(log) for t, log in oracle.items() if log}
        history.close()

    check()


# a disk --------------------------------------------------------------------------------------------------------------


def test_the_file_is_for_this_user_alone(sqlite_open: Open, tmp_path: Path) -> None:
    published(sqlite_open(), event("a"))
    files = sorted((tmp_path / "state").iterdir())
    assert [file.name for file in files] == ["history.db", "history.db-shm", "history.db-wal"]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700


def test_an_event_is_on_the_disk_when_it_is_acknowledged(sqlite_open: Open) -> None:
    history = sqlite_open()
    assert isinstance(history, SqliteHistory)
    settings = {name: history._db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")}
    assert settings == {"journal_mode": "wal", "synchronous": 2}


def test_the_tag_of_a_publication_is_on_disks() -> None:
    assert pack(Publication("a", "e", 1, 1.0, "t", b""))[:2] == b"\x9a\x03"


def sqlite_error(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        SqliteHistory(path, POLICIES, 10, lambda: "e")
    assert caught.value.field == "history.durable_file"
    assert str(path) in caught.value.message
    return caught.value.message


def test_what_is_no_history_is_refused_with_a_remedy(sqlite_open: Open, tmp_path: Path) -> None:
    no_database = tmp_path / "text.db"
    no_database.write_bytes(b"something else\n" * 1_000)
    assert "move it away" in sqlite_error(no_database)
    foreign = tmp_path / "foreign.db"
    with sqlite3.connect(foreign) as db:
        db.execute("CREATE TABLE theirs (x)")
    assert "another program" in sqlite_error(foreign)
    newer = tmp_path / "newer.db"
    sqlite_open(path=newer).close()
    with sqlite3.connect(newer) as db:
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    assert "newer version" in sqlite_error(newer)
    assert "another path" in sqlite_error(tmp_path)
    assert "another path" in sqlite_error(no_database / "x.db")


def test_a_damaged_file_is_refused_with_a_remedy(sqlite_open: Open, tmp_path: Path) -> None:
    path = tmp_path / "damaged.db"
    history = sqlite_open(path=path)
    published(history, *(event(f"a{n}") for n in range(40)))
    history.close()
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(size - 4096))
    assert "move it away" in sqlite_error(path)


def test_a_full_database_changes_nothing_and_works_again(sqlite_open: Open) -> None:
    history = sqlite_open()
    assert isinstance(history, SqliteHistory)
    published(history, event("a", "1"))
    pages = history._db.execute("PRAGMA page_count").fetchone()[0]
    history._db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(RequestError) as caught:
        history.append([event("a", "2", "k"), event("new", "x" * 100_000)], NOW + 1)
    assert caught.value.code is ErrorCode.UNAVAILABLE
    assert "full" in caught.value.message
    assert kept(history, "a") == [(1, b"1")]
    assert [h.topic for h in history.heads()] == ["a"]
    history._db.execute("PRAGMA max_page_count = 1000000")
    again, new = published(history, event("a", "3", "k"), event("new"))
    assert (again.again, again.publication.offset, again.publication.ts) == (False, 2, NOW)
    assert new.publication.offset == 1
    assert kept(history, "a") == [(1, b"1"), (2, b"3")]


def test_who_waits_for_the_file_too_long_is_told(
    sqlite_open: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actors.sqlite_history.BUSY_TIMEOUT_S", 0.01)
    history = sqlite_open()
    other = sqlite3.connect(tmp_path / "state" / "history.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(RequestError, match="locked"):
        history.append([event("a")], NOW)
    other.close()
    assert published(history, event("a"))[0].publication.offset == 1


def child(code: str, *args: object) -> subprocess.Popen[str]:
    head = "import itertools, resource, sys\nfrom tests.actors.test_history_contract import *\n"
    line = [sys.executable, "-c", head + textwrap.dedent(code), *map(str, args)]
    return subprocess.Popen(line, stdout=subprocess.PIPE, text=True)


def test_a_disk_without_room_changes_nothing_and_works_again(tmp_path: Path) -> None:
    code = """
    history = SqliteHistory(Path(sys.argv[1]), POLICIES, 10, lambda: "e")
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    done = refused = 0
    while refused < 3:
        try:
            published(history, *(event("a", "x" * 10_000, key=f"k{done}-{n}") for n in range(10)))
            done += 1
        except RequestError as error:
            assert error.code == "unavailable", error
            refused += 1
            assert len(kept(history, "a")) == 10 * done
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    for _ in range(3):
        accepted = published(history, *(event("a", "x" * 10_000, key=f"k{done}-{n}") for n in range(10)))
        done += 1
        assert accepted[-1].publication.offset == 10 * done
    assert [offset for offset, _ in kept(history, "a")] == list(range(1, 10 * done + 1))
    print(done)
    """
    process = child(code, tmp_path / "h.db")
    out, _ = process.communicate(timeout=CHILD_S)
    assert process.returncode == 0
    assert int(out) > 3


@pytest.mark.parametrize("key_kind", ["memory", "sqlite"])
def test_a_key_is_forgotten_in_time(key_kind: str, request: pytest.FixtureRequest) -> None:
    history: History = request.getfixturevalue(f"{key_kind}_open")()
    published(history, event("a", "1", "k"))
    (later,) = published(history, event("a", "2", "k"), now=NOW + KEY_LIFETIME)
    assert (later.again, later.publication.offset) == (False, 2)
    history.trim(NOW + KEY_LIFETIME)
    assert published(history, event("a", "3", "k"), now=NOW + KEY_LIFETIME + 1)[0].again


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_a_writer_that_is_killed_leaves_what_it_acknowledged(kind: str, request: pytest.FixtureRequest) -> None:
    opener: Open = request.getfixturevalue(f"{kind}_open")
    opener().close()
    code = """
    kind, place = sys.argv[1:]
    if kind == "sqlite":
        history = SqliteHistory(Path(place), POLICIES, 10, lambda: "e")
    else:
        history = RedisHistory(place, None, "test", POLICIES, 10, lambda: "e")
    for n in itertools.count():
        batch = published(history, *(event(topic, f"{n}") for topic in "aabab"))
        print(*(f"{a.publication.topic}{a.publication.offset}" for a in batch), flush=True)
    """
    with child(code, kind, request.getfixturevalue(f"{kind}_place")) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(50)]
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.readlines()
    acknowledged = [word for line in lines if line.endswith("\n") for word in line.split()]
    log = [p for _, packed in opener().tail(0, 1_000_000) for p in unpacked([packed])]
    assert [f"{p.topic}{p.offset}" for p in log][: len(acknowledged)] == acknowledged
    assert len(log) % 5 == 0  # no append is there by half
    for topic in "ab":
        assert [p.offset for p in log if p.topic == topic] == list(range(1, 1 + sum(p.topic == topic for p in log)))


# a socket ------------------------------------------------------------------------------------------------------------


def redis_history(url: str, prefix: str = "test") -> RedisHistory:
    return RedisHistory(url, None, prefix, POLICIES, 50, lambda: next(_epochs))


def test_keys_are_of_one_slot_and_expire_by_themselves(redis_server: Callable[..., RedisServer]) -> None:
    server = redis_server()
    history = redis_history(server.url)
    published(history, event("a", key="k"))
    with server.client() as client:
        names = client.keys("*")
        assert all(name.startswith(b"{test}:") for name in names), names
        assert 0 < client.ttl("{test}:key:a k") <= KEY_LIFETIME
    history.close()


def test_two_prefixes_are_two_histories(redis_place: str) -> None:
    one, other = redis_history(redis_place), redis_history(redis_place, "other")
    published(one, event("a"), event("a"))
    assert published(other, event("a"))[0].publication.offset == 1
    assert one.epoch != other.epoch
    one.close()
    other.close()


def test_a_redis_that_is_away_is_unavailable_and_comes_back(redis_server: Callable[..., RedisServer]) -> None:
    server = redis_server(appendonly="yes", appendfsync="always")
    history = redis_history(server.url)
    (first,) = published(history, event("a", "1", "k"))
    server.stop()
    calls: list[Callable[[], object]] = [
        lambda: history.append([event("a")], NOW),
        lambda: list(history.heads()),
        lambda: history.first("a"),
        lambda: history.read("a", 0, 1),
        lambda: history.tail(0, 1),
        lambda: history.wait(0, 1, 0.1),
        lambda: history.trim(NOW),
    ]
    for call in calls:
        with pytest.raises(RequestError) as caught:
            call()
        assert caught.value.code is ErrorCode.UNAVAILABLE
    server.start()
    again, second = published(history, event("a", "1", "k"), event("a", "2"))
    assert again.again
    assert second.publication[:3] == ("a", first.publication.epoch, 2)
    history.close()


@pytest.mark.parametrize(
    "fields", [{"foo": "bar"}, {"b": "\xc1", "t": "a", "e": "e", "o": "1", "s": "1"}, {"b": "\x00", "t": "a"}]
)
def test_what_is_no_event_is_told_with_the_remedy(
    redis_server: Callable[..., RedisServer], fields: dict[str, str]
) -> None:
    server = redis_server()
    history = redis_history(server.url)
    (first,) = published(history, event("a"))
    with server.client() as client:
        client.xadd("{test}:log", {name: value.encode("latin-1") for name, value in fields.items()}, "2-0")
        for call in (lambda: history.wait(first.mark, 1, 0.1), lambda: history.tail(first.mark, 10)):
            with pytest.raises(BackplaneError) as caught:
                call()
            assert "2-0 is no event; DEL '{test}:epoch'" in caught.value.reason
            assert caught.value.code is ErrorCode.UNAVAILABLE
        with pytest.raises(RequestError):
            history.append([event("a")], NOW)
        client.delete("{test}:epoch")
    (second,) = published(history, event("a"))
    assert second.publication.epoch != first.publication.epoch
    assert [mark for mark, _ in history.tail(0, 10)] == [second.mark]
    history.close()


def test_scripts_that_redis_forgot_are_told_again(redis_server: Callable[..., RedisServer]) -> None:
    server = redis_server()
    history = redis_history(server.url)
    published(history, event("a"))
    with server.client() as client:
        client.script_flush()
    assert published(history, event("a"))[0].publication.offset == 2
    history.close()


@pytest.mark.parametrize("how", ["flushall", "restart"])
def test_a_redis_that_forgot_all_begins_a_new_epoch(how: str, redis_server: Callable[..., RedisServer]) -> None:
    server = redis_server()
    history = redis_history(server.url)
    *_, before = published(history, event("a"), event("a"))
    if how == "restart":
        server.stop()
        server.start()
    else:
        with server.client() as client:
            client.flushall()
        published(redis_history(server.url), *(event("a") for _ in range(5)))
    with pytest.raises(Expired):
        for _ in range(2):  # the first one may find its connection broken
            with contextlib.suppress(RequestError):
                history.tail(before.mark, 10)
    (after,) = published(history, event("a"))
    assert after.publication.epoch != before.publication.epoch
    assert after.publication.offset == (1 if how == "restart" else 6)
    history.close()


def test_a_redis_that_went_back_in_time_begins_a_new_epoch(redis_server: Callable[..., RedisServer]) -> None:
    server = redis_server()
    sees_all, sees_little = redis_history(server.url), redis_history(server.url)
    published(sees_little, event("a"), event("b"))
    with server.client() as client:
        client.save()
        (before,) = published(sees_all, event("a"))
        client.shutdown(nosave=True)
    server.stop()
    server.start()
    for _ in range(2):
        with contextlib.suppress(RequestError):  # its connection is broken
            (other,) = published(sees_little, event("a", "another"))
    assert other.publication.epoch == before.publication.epoch, "nobody could know yet"
    with contextlib.suppress(RequestError):
        sees_all.bounds()
    (after,) = published(sees_all, event("a"))
    assert after.publication.epoch != before.publication.epoch
    assert (after.publication.offset, after.mark) == (1, 1)
    assert kept(sees_little, "a") == [(1, b"1")]
    assert sees_little.read("b", 0, 1) == []
    sees_all.close()
    sees_little.close()


def test_waiting_ends_with_an_event_of_another_engine(redis_place: str) -> None:
    waits, writes = redis_history(redis_place), redis_history(redis_place)
    assert waits.wait(0, 10, 0.01) == []
    later = threading.Timer(0.05, lambda: published(writes, event("a"), event("b")))
    later.start()
    found = waits.wait(0, 10, 2.0)
    later.join()
    assert [p.topic for p in unpacked([event.packed for event in found])] == ["a", "b"]
    assert waits.wait(found[0].mark, 10, 2.0) == found[1:]
    waits.close()
    writes.close()


def test_the_log_reaches_back_to_its_oldest_event(redis_place: str) -> None:
    policies = TopicPolicies({}, TopicPolicy(history_age_s=10.0))
    history = RedisHistory(redis_place, None, "test", policies, 50, lambda: next(_epochs))
    for second in range(6):
        published(history, event("a"), now=NOW + second)
    history.trim(NOW + 12.5)
    with pytest.raises(Expired):
        history.tail(2, 10)
    assert [mark for mark, _ in history.tail(3, 10)] == [4, 5, 6]
    history.trim(NOW + 100)
    assert history.tail(6, 10) == []
    with pytest.raises(Expired):
        history.tail(5, 10)
    assert (history.first("a"), head(history, "a").offset) == (7, 6)
    assert published(history, event("a"), now=NOW + 100)[0].publication.offset == 7
    history.close()


def test_many_old_events_go_at_once_and_those_that_are_kept_stay(redis_place: str) -> None:
    policies = TopicPolicies(
        {"small": TopicPolicy(history_size=3, history_age_s=10.0)}, TopicPolicy(history_age_s=10.0)
    )
    history = RedisHistory(redis_place, None, "test", policies, 50, lambda: next(_epochs))
    for second in range(5):
        published(history, *(event(topic) for topic in ("a", "small") for _ in range(60)), now=NOW + second)
    history.trim(NOW + 12.5)
    with pytest.raises(Expired):
        history.tail(359, 10)
    assert history.tail(360, 1)[0][0] == 361
    assert history.read("a", 0, LIMIT) == history.read("a", 180, LIMIT)
    assert len(history.read("a", 0, LIMIT)) == 120
    assert [offset for offset, _ in kept(history, "small")] == [298, 299, 300]
    history.close()


def test_a_log_that_is_trimmed_between_two_looks_is_no_log_without_a_hole(
    redis_server: Callable[..., RedisServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = redis_server()
    history = redis_history(server.url)
    published(history, *(event("a") for _ in range(5)))
    seen = history.bounds()
    with server.client() as client:
        client.xtrim("{test}:log", minid="4-0", approximate=False)
    look = history.bounds
    for read in (lambda: history.tail(1, 10), lambda: history.wait(1, 10, 0.1)):
        looks = iter([lambda: seen, look])
        monkeypatch.setattr(history, "bounds", lambda looks=looks: next(looks)())
        with pytest.raises(Expired):
            read()
    monkeypatch.undo()
    with server.client() as client:
        client.xdel("{test}:log", "5-0")  # somebody else's doing: it does not go on for ever
        published(history, event("a"))
    assert [event.mark for event in history.wait(4, 10, 0.1)] == [6]
    history.close()


def test_a_redis_may_be_at_a_unix_socket(redis_server: Callable[..., RedisServer], tmp_path: Path) -> None:
    redis_server(unixsocket=tmp_path / "redis.sock")
    history = redis_history(f"unix://{tmp_path}/redis.sock")
    assert published(history, event("a"))[0].publication.offset == 1
    history.close()


def test_configuration_that_cannot_work_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"backplane\.url: has an option"):
        redis_history("redis://127.0.0.1?colour=red")
    with pytest.raises(ConfigError, match=r"backplane\.url: must be redis"):
        redis_history("http://127.0.0.1")
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ConfigError, match=r"pip install 'heliograph\[redis\]'"):
        redis_history("redis://127.0.0.1")


def test_a_password_is_used_and_in_no_message(redis_server: Callable[..., RedisServer]) -> None:
    server = redis_server(requirepass="hunter2")
    history = RedisHistory(server.url, "hunter2", "test", POLICIES, 50, lambda: "e")
    assert published(history, event("a"))[0].publication.offset == 1
    history.close()
    wrong = RedisHistory(server.url, "hunter3", "test", POLICIES, 50, lambda: "e")
    with pytest.raises(BackplaneError) as caught:
        wrong.append([event("a")], NOW)
    assert "hunter" not in f"{caught.value} {caught.value.reason}"
    wrong.close()


def test_a_writers_numbers_are_appended_once_whatever_comes_again(redis_place: str) -> None:
    history = redis_history(redis_place)
    batch = [event("a", f"{n}") for n in range(4)]
    first = history.append(batch[:3], NOW, writer=("w", 10))
    assert [result.again for result in first if isinstance(result, Accepted)] == [False] * 3
    again = history.append(batch, NOW, writer=("w", 10))
    places = [(result.again, result.publication.offset) for result in again if isinstance(result, Accepted)]
    assert places == [(True, 0)] * 3 + [(False, 4)]
    published(history, event("a", "4"))
    other = history.append(batch[:1], NOW, writer=("x", 10))
    assert [result.publication.offset for result in other if isinstance(result, Accepted)] == [6]
    assert [data for _, data in kept(history, "a")] == [b"0", b"1", b"2", b"3", b"4", b"0"]


def test_topics_that_ended_before_a_mark_are_told(redis_place: str) -> None:
    history = redis_history(redis_place)
    published(history, event("a"), event("a"), event("b"), event("c"))
    assert dict(history.ended(3)) == {"a": 2, "b": 1}
    assert dict(history.ended(0)) == {}


def test_a_log_shorter_than_what_somebody_has_read_is_another_one(redis_place: str) -> None:
    history = redis_history(redis_place)
    published(history, event("a"), event("a"))
    reader = redis_history(redis_place)
    reader.trust(history.epoch, 2)
    assert reader.wait(2, 10, 0.01) == []
    forgetful = redis_history(redis_place)
    forgetful.trust(history.epoch, 3)
    with pytest.raises(Expired):
        forgetful.wait(3, 10, 0.01)
    assert forgetful.epoch != history.epoch
