"""The log of recent events: files, restarts, torn ends, bounds. A plain list is the oracle."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from itertools import count
from pathlib import Path

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors import event_log, file_lock
from actors.event_log import EventLog
from actors.history import Accepted, Expired
from actors.topic_log import TopicLog
from actors.topic_policy import TopicPolicies, TopicPolicy
from transport.codec import join, pack, unpack_batch
from transport.codes import ErrorCode
from transport.errors import ConfigError, RequestError
from transport.messages import Publication, Publish

SMALL = 32 * 400  # bytes: a segment holds a handful of events


def log(
    directory: Path | None, size: int = SMALL, policies: TopicPolicies | None = None, prefix: str = "e"
) -> TopicLog:
    numbers = count()
    return TopicLog(
        100, lambda: f"{prefix}{next(numbers)}", directory=directory, max_bytes=size, policies=policies, now=1000.0
    )


def say(log: TopicLog, topic: str, data: bytes = b"1", now: float = 1000.0, key: str | None = None) -> Accepted:
    [outcome] = log.append([Publish(0, topic, "message", data, idempotency_key=key)], now)
    assert isinstance(outcome, Accepted)
    return outcome


def unpacked(packed: list[bytes]) -> list[Publication]:
    return unpack_batch(join(packed)) if packed else []


def told(log: TopicLog, topic: str, after: int = 0) -> list[tuple[int, bytes]]:
    return [(event.offset, event.data) for event in unpacked(log.read(topic, after, 1000))]


def behind(log: TopicLog, mark: int) -> list[tuple[int, str, int]]:
    found = log.tail(mark, 1000)
    return [
        (mark, event.topic, event.offset)
        for (mark, _), event in zip(found, unpacked([p for _, p in found]), strict=True)
    ]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.one_of(st.tuples(st.sampled_from("abc"), st.binary(max_size=200)), st.just("restart"), st.just("forget")),
        max_size=80,
    ),
    st.booleans(),
)
def test_what_is_read_is_what_was_written_however_often_the_hub_dies(
    tmp_path_factory: pytest.TempPathFactory, steps: list[object], sealed: bool
) -> None:
    directory = tmp_path_factory.mktemp("log")
    subject = log(directory, 1 << 20 if not sealed else 32 * 300)
    everything: list[tuple[int, str, str, int, bytes]] = []
    for number, step in enumerate(steps):
        if step == "restart":
            name = subject.id
            subject.close()
            subject = log(directory, 1 << 20 if not sealed else 32 * 300, prefix=f"r{number}-")
            assert subject.id == name
        elif step == "forget":
            subject.forget_idle(2000.0)
        else:
            topic, data = step  # type: ignore[misc]
            event = say(subject, topic, data)
            everything.append((event.mark, topic, event.publication.epoch, event.publication.offset, data))
    marks = [mark for mark, *_ in everything]
    assert marks == list(range(1, len(marks) + 1))
    for topic in "abc":
        epoch, offset = subject.where(topic)
        mine = [(o, data) for _, t, e, o, data in everything if (t, e) == (topic, epoch)]
        assert [o for o, _ in mine] == list(range(1, offset + 1)), "offsets go on"
        first = subject.first(topic)
        assert told(subject, topic) == mine[first - 1 :]
        if mine and sealed:
            assert subject.last(topic)[0].offset == offset, "the last event outlives its segment"
    for mark in range(len(marks) + 1):
        try:
            assert [m for m, *_ in behind(subject, mark)] == marks[mark:]
        except Expired:
            assert sealed
    subject.close()


def test_the_oldest_goes_and_what_is_left_says_so(tmp_path: Path) -> None:
    subject = log(tmp_path)
    for n in range(400):
        say(subject, "busy", b"x" * 100)
        if n == 0:
            say(subject, "quiet", b"q")
    assert subject.size < 2 * SMALL
    assert 1 < subject.first("busy") <= subject.where("busy")[1]
    assert told(subject, "busy", 0)[0][0] == subject.first("busy")
    assert [event.data for event in subject.last("quiet")] == [b"q"]
    assert (subject.where("quiet")[1], subject.first("quiet"), told(subject, "quiet")) == (1, 2, [])
    with pytest.raises(Expired):
        subject.tail(0, 10)
    with pytest.raises(Expired):
        subject.mark_of(f"{subject.id}:1")
    with pytest.raises(Expired):
        subject.mark_of(f"{subject.id}:{subject.mark + 1}")
    for wrong in ("", ":", "x:1", f"{subject.id}:-1", f"{subject.id}:1.5", f"{subject.id}:{'9' * 30}"):
        with pytest.raises(Expired):
            subject.mark_of(wrong)


def test_a_quiet_topic_keeps_epoch_offset_and_last_event_over_restarts(tmp_path: Path) -> None:
    subject = log(tmp_path)
    quiet = say(subject, "quiet").publication
    for _ in range(400):
        say(subject, "busy", b"x" * 100)
    subject.close()
    again = log(tmp_path, prefix="other")
    assert again.last("quiet") == [quiet]
    assert say(again, "quiet").publication[1:3] == (quiet.epoch, 2)


def test_a_torn_end_is_cut_off_and_the_rest_stays(tmp_path: Path) -> None:
    subject = log(tmp_path, 1 << 20)
    for n in range(5):
        say(subject, "a", bytes([48 + n]))
    subject.close()
    [file] = tmp_path.glob("*.log")
    whole = file.read_bytes()
    for cut in (1, 20, 40):
        file.write_bytes(whole[:-cut])
        again = log(tmp_path, 1 << 20)
        kept = told(again, "a")
        assert kept == [(n + 1, bytes([48 + n])) for n in range(len(kept))]
        assert len(kept) in (3, 4)
        assert say(again, "a").publication.offset == len(kept) + 1
        again.close()
    file.write_bytes(whole + b"\0" * 100)
    again = log(tmp_path, 1 << 20)
    assert len(told(again, "a")) == 5
    again.close()


def test_what_is_no_log_is_set_aside_and_the_epoch_changes(tmp_path: Path) -> None:
    subject = log(tmp_path)
    before = say(subject, "a").publication
    subject.close()
    for file in tmp_path.glob("*.log"):
        file.write_bytes(os.urandom(3000))
    again = log(tmp_path, prefix="other")
    assert told(again, "a") == []
    assert say(again, "a").publication.epoch != before.epoch


def test_two_hubs_do_not_share_a_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_lock, "LOCK_TIMEOUT", 0.0)
    subject = log(tmp_path)
    with pytest.raises(ConfigError, match="another process"):
        log(tmp_path)
    subject.close()
    log(tmp_path).close()


@pytest.mark.parametrize("foreign", [False, True])
def test_a_directory_in_which_others_may_write_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, foreign: bool
) -> None:
    if foreign:
        user = os.getuid()
        monkeypatch.setattr(os, "getuid", lambda: user + 1)
    else:
        tmp_path.chmod(0o1777)  # as /dev/shm is
    with pytest.raises(ConfigError, match="of this user") as told:
        log(tmp_path)
    assert told.value.field == "history.dir"
    assert not [*tmp_path.iterdir()]


def test_a_full_disk_refuses_and_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = log(tmp_path, 1 << 20)
    say(subject, "a", key="k0")
    place = subject.position, subject.where("a"), subject.size

    def full(fd: int, data: bytes, at: int) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        with pytest.raises(RequestError) as caught:
            say(subject, "a", key="k1")
        assert caught.value.code is ErrorCode.UNAVAILABLE
        assert "No space left" in caught.value.message
    assert (subject.position, subject.where("a"), subject.size) == place
    assert say(subject, "a", key="k1").publication.offset == 2
    assert told(subject, "a") == [(1, b"1"), (2, b"1")]


def test_a_key_is_known_for_five_minutes_also_by_the_next_hub(tmp_path: Path) -> None:
    subject = log(tmp_path, 1 << 20)
    first = say(subject, "a", key="k")
    assert say(subject, "b", key="k").again is False, "keys are the topic's"
    for again in (subject, None):
        if again is None:
            subject.close()
            subject = log(tmp_path, 1 << 20)
        known = say(subject, "a", b"2", now=1299.0, key="k")
        assert known.again
        assert known.publication[:3] == first.publication[:3]
    assert say(subject, "a", now=1300.0, key="k").publication.offset == 2


def test_a_topic_keeps_as_much_as_its_policy_says(tmp_path: Path) -> None:
    policies = TopicPolicies(
        {
            "few": TopicPolicy(history_size=2),
            "none": TopicPolicy(history_size=0),
            "young": TopicPolicy(history_age_s=10),
        }
    )
    subject = log(tmp_path, 1 << 20, policies)
    for n in range(20):
        for topic in ("few", "none", "young"):
            say(subject, topic, now=1000.0 + n)
    subject.trim(1020.0)
    assert [offset for offset, _ in told(subject, "few")] == [19, 20]
    assert told(subject, "none") == []
    assert subject.first("none") == 21
    assert [offset for offset, _ in told(subject, "young")] == list(range(11, 21))


def test_events_placed_elsewhere_are_kept_once_and_a_hole_is_no_run(tmp_path: Path) -> None:
    subject = log(tmp_path, 1 << 20)

    def event(offset: int, epoch: str = "x") -> Accepted:
        publication = Publication("a", epoch, offset, 1000.0, "message", b"%d" % offset)
        return Accepted(publication, pack(publication), 0)

    assert [e.publication.offset for e in subject.record([event(1), event(2), event(2), event(1)])] == [1, 2]
    assert subject.record([event(2)]) == []
    subject.record([event(5), event(6)])
    assert (subject.where("a"), subject.first("a")) == (("x", 6), 5)
    assert [offset for offset, _ in told(subject, "a")] == [5, 6]
    subject.record([event(1, "y")])
    assert (subject.where("a"), told(subject, "a")) == (("y", 1), [(1, b"1")])
    assert len(behind(subject, 0)) == 5
    subject.close()
    again = log(tmp_path, 1 << 20)
    assert (again.where("a"), told(again, "a")) == (("y", 1), [(1, b"1")])


WRITER = """
import sys
from itertools import count
from pathlib import Path
from actors.topic_log import TopicLog
from transport.messages import Publish
numbers = count()
log = TopicLog(100, lambda: f"e{next(numbers)}", directory=Path(sys.argv[1]), max_bytes=1 << 20)
for n in count():
    log.append([Publish(0, f"t.{(n + i) % 3}", "message", b"%d" % n) for i in range(n % 7 + 1)], 1000.0)
    print(log.mark, flush=True)
"""


def test_nothing_acknowledged_is_lost_by_kill_9(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        acknowledged = 0
        for line in writer.stdout:
            acknowledged = int(line)
            if acknowledged > 3000:
                writer.send_signal(signal.SIGKILL)
                break
        acknowledged = max([acknowledged, *(int(line) for line in writer.stdout if line.endswith("\n"))])
    again = log(tmp_path, 1 << 20)
    assert again.mark >= acknowledged
    assert sum(again.where(f"t.{n}")[1] for n in range(3)) == again.mark
    for n in range(3):
        offsets = [offset for offset, _ in told(again, f"t.{n}")]
        assert offsets == list(range(1, len(offsets) + 1))


def test_a_log_in_memory_has_no_files_and_the_same_bounds() -> None:
    subject = EventLog(None, SMALL, "log", "e", lambda topic: True)
    publication = Publication("a", "e", 1, 0.0, "message", b"1")
    subject.append([Accepted(publication, pack(publication), 1)])
    assert len(subject) == 1
    subject.close()


def test_the_last_events_of_many_topics_leave_room_for_events(tmp_path: Path) -> None:
    subject = log(tmp_path)
    for n in range(90):
        say(subject, f"quiet.{n}", b"x" * 1000)  # as many bytes as the log has for events, several times over
    for _ in range(300):
        say(subject, "busy")
    files = len(list(tmp_path.glob("*.log")))
    assert files <= 64, "a segment that took over much is not full of it"
    assert len(told(subject, "busy")) > 50
    subject.close()
    again = log(tmp_path)
    assert all(again.last(f"quiet.{n}")[0].data == b"x" * 1000 for n in range(90))
    again.close()


def test_a_segment_that_was_hardly_begun_costs_nothing(tmp_path: Path) -> None:
    subject = log(tmp_path)
    for _ in range(40):
        say(subject, "a")
    before = subject.position, told(subject, "a")
    subject.close()
    for name in ("000000000999.tmp", "000000000001.tmp"):
        (tmp_path / name).write_bytes(b"helio")
    again = log(tmp_path, prefix="other")
    assert (again.position, told(again, "a")) == before
    assert not list(tmp_path.glob("*.tmp"))
    again.close()


def test_marks_rise_also_when_the_last_hub_had_only_begun_a_segment(tmp_path: Path) -> None:
    subject = EventLog(tmp_path, 1 << 20, "log", "e", lambda topic: True)
    publication = Publication("a", "e", 1, 1.0, "message", b"1")
    subject.append([Accepted(publication, pack(publication), 7)])
    subject.roll()
    subject.drop_before(1000.0)
    subject.close()
    again = EventLog(tmp_path, 1 << 20, "other", "other", lambda topic: True)
    assert again.position == "log:7"
    with pytest.raises(Expired):
        again.tail(6, 1)
    assert again.tail(7, 1) == []
    again.close()


def test_topics_that_were_lost_with_a_file_do_not_have_their_offsets_again(tmp_path: Path) -> None:
    subject = log(tmp_path)
    say(subject, "early")
    for _ in range(20):
        say(subject, "late", b"x" * 100)
    subject.close()
    first, *rest = sorted(tmp_path.glob("*.log"))
    first.write_bytes(b"nothing")
    again = log(tmp_path, prefix="other")
    assert rest and again.where("late") == ("e0", 20)
    place = say(again, "early").publication
    assert (place.epoch, place.offset) != ("e0", 1)
    again.close()
    (rest[1] if len(rest) > 2 else rest[0]).unlink()
    last = log(tmp_path, prefix="last")
    assert told(last, "late") == told(last, "late", last.first("late") - 1)
    with pytest.raises(Expired):
        last.tail(2, 100)
    last.close()


def test_what_a_dead_machine_has_on_its_disk_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    boot = tmp_path / "boot"
    monkeypatch.setattr(event_log, "BOOT_ID", boot)
    boot.write_text("first boot")
    directory = tmp_path / "log"
    subject = log(directory)
    say(subject, "a")
    subject.close()
    boot.write_text("second boot")
    again = log(directory, prefix="other")
    assert told(again, "a") == [(1, b"1")], "it was closed"
    del again  # killed: its lock goes, and no word of an end
    gc.collect()
    for fd in _fds_of(directory):
        os.close(fd)
    boot.write_text("third boot")
    last = log(directory, prefix="last")
    assert told(last, "a") == [] and last.where("a")[0].startswith("last")
    last.close()


def _fds_of(directory: Path) -> list[int]:
    found = []
    for entry in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{entry}").startswith(str(directory)):
                found.append(int(entry))
        except OSError:
            continue
    return found


def test_an_index_that_is_damaged_is_made_again(tmp_path: Path) -> None:
    subject = log(tmp_path)
    for _ in range(60):
        say(subject, "a", b"x" * 50)
    before = told(subject, "a")
    subject.close()
    for n, index in enumerate(sorted(tmp_path.glob("*.index"))):
        fields = msgpack.unpackb(index.read_bytes())
        if n % 3 == 0:
            fields[6] = fields[6][:-1]
        elif n % 3 == 1:
            fields = fields[:-1]
        index.write_bytes(msgpack.packb(fields)[: -1 if n % 3 == 2 else None])
    again = log(tmp_path)
    assert told(again, "a") == before
    again.close()


def test_the_newest_that_fit_are_found_without_reading(tmp_path: Path) -> None:
    subject = EventLog(tmp_path, SMALL, "log", "e", lambda topic: True)
    for offset in range(1, 31):
        publication = Publication("a", "e", offset, 1.0, "message", b"x" * 100)
        subject.append([Accepted(publication, pack(publication), offset)])
    first = subject.first("a", "e", 30)
    assert first == 1
    for after, events, nbytes, expected in (
        (0, 99, 1 << 20, 1),
        (4, 99, 1 << 20, 5),
        (0, 3, 1 << 20, 28),
        (0, 99, 0, 31),
    ):
        assert subject.newest("a", "e", after, events, nbytes) == expected
    assert 25 < subject.newest("a", "e", 0, 99, 500) < 30
    subject.close()


def test_a_key_that_came_again_is_the_newest_also_for_the_next_hub(tmp_path: Path) -> None:
    subject = log(tmp_path, 1 << 20)
    say(subject, "a", now=1000.0, key="k")
    second = say(subject, "a", now=1400.0, key="k").publication
    subject.close()
    again = log(tmp_path, 1 << 20)
    known = say(again, "a", now=1500.0, key="k")
    assert known.again and known.publication.offset == second.offset == 2
    say(again, "b", now=1000.0 + 1e6, key="k")  # a clock that fell must not keep the others' keys
    assert say(again, "a", now=1701.0, key="k").again is False
    again.close()
