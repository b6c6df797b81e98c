from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from actors.call_desk import CALL_TIMEOUT, UNANSWERED, CallDesk
from transport.codec import join, unpack_batch
from transport.messages import Call, CallDone, Called, Calling, Refused, Serve, Served, Withdraw


class FakePeer:
    def __init__(self) -> None:
        self.out: list[bytes] = []
        self.window_open = True

    def read(self) -> list[Any]:
        messages = unpack_batch(join(self.out))
        self.out.clear()
        return messages


class Desk:
    """A desk with a clock of the test's."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.due: list[float] = []
        self.desk = CallDesk(later=lambda delay: self.due.append(self.now + delay), clock=lambda: self.now)

    def hear(self, peer: FakePeer, item: Any) -> None:
        self.desk.handlers[type(item)](peer, item)

    def wait(self, seconds: float) -> None:
        self.now += seconds
        while self.due and self.due[0] <= self.now:
            del self.due[0]
            self.desk.tick()


def one(peer: FakePeer) -> Any:
    [message] = peer.read()
    return message


def test_the_one_that_serves_a_topic_is_called() -> None:
    here, worker, other = Desk(), FakePeer(), FakePeer()
    here.hear(worker, Serve(3, "s1", "job", ["cancel"], 1.0))
    assert one(worker) == Served(3)
    here.hear(other, Call(8, "job", "cancel", b"[1]", "alice"))
    calling = one(worker)
    assert calling == Calling(calling.call, "s1", "job", "cancel", b"[1]", "alice")
    here.hear(worker, CallDone(calling.call, "s2", b"0"))
    here.hear(other, CallDone(calling.call, "s1", b"0"))
    assert other.read() == [], "nobody answers for another"
    here.hear(worker, CallDone(calling.call, "s1", b"true"))
    assert one(other) == Called(8, b"true")
    assert len(here.desk) == 0
    here.hear(worker, CallDone(calling.call, "s1", b"false"))
    assert other.read() == []


def test_who_called_and_went_is_answered_no_more_and_its_call_is_nobodys() -> None:
    here, worker, other = Desk(), FakePeer(), FakePeer()
    here.hear(worker, Serve(0, "s", "job", ["a"], 1.0))
    here.hear(other, Call(1, "job", "a", b"1"))
    here.desk.gone(other)
    assert len(here.desk) == 0
    here.hear(worker, CallDone(one(worker).call, "s", b"0"))
    assert (worker.read(), other.read()) == ([], [])


def test_a_call_has_a_name_that_no_other_hub_gives() -> None:
    names = set()
    for here in (Desk(), Desk()):
        worker = FakePeer()
        here.hear(worker, Serve(0, "s", "job", ["a"], 1.0))
        here.hear(worker, Call(1, "job", "a", b"1"))
        names.add(one(worker).call)
    assert len(names) == 2


def test_of_several_the_newest_answers_also_for_a_hub_that_hears_them_in_another_order() -> None:
    here, worker, other = Desk(), FakePeer(), FakePeer()
    here.hear(other, Serve(0, "new", "job", ["a"], 5.0))
    here.hear(worker, Serve(0, "old", "job", ["b"], 4.0))
    here.hear(worker, Call(1, "job", "a", b"1"))
    assert one(other).member == "new"
    here.hear(worker, Call(2, "job", "b", b"1"))
    refused = one(worker)
    assert (refused.ref, refused.code, refused.message) == (2, "not_found", "job has no method 'b', but a")
    here.hear(other, Withdraw("new"))
    assert worker.read()[0].code == "unavailable"
    here.hear(worker, Call(3, "job", "b", b"1"))
    assert one(worker).member == "old"


def test_a_part_of_the_engine_goes_before_clients() -> None:
    here, worker, monitor = Desk(), FakePeer(), FakePeer()
    here.hear(monitor, Serve(0, "alerts", "alert.cpu", ["acknowledge"], 4.0, inner=True))
    here.hear(worker, Serve(0, "client", "alert.cpu", ["acknowledge"], 5.0))
    here.hear(worker, Call(1, "alert.cpu", "acknowledge", b"1"))
    assert one(monitor).member == "alerts"


def test_a_link_that_comes_again_has_the_topic_whatever_the_old_one_did() -> None:
    here, before, after = Desk(), FakePeer(), FakePeer()
    here.hear(before, Serve(0, "s", "job", ["a"], 4.0))
    here.hear(after, Serve(0, "s", "job", ["a"], 4.0))
    here.desk.gone(before)
    here.hear(before, Call(1, "job", "a", b"1"))
    assert one(after).member == "s"


def test_who_has_too_much_to_answer_is_not_asked() -> None:
    here, worker, other = Desk(), FakePeer(), FakePeer()
    here.hear(worker, Serve(0, "s", "job", ["a"], 1.0))
    for ref in range(UNANSWERED):
        here.hear(other, Call(ref + 1, "job", "a", b"1"))
    assert (other.read(), len(worker.read())) == ([], UNANSWERED)
    here.hear(other, Call(99, "job", "a", b"1"))
    assert (worker.read(), one(other).code) == ([], "rate_limited")
    here.wait(CALL_TIMEOUT)
    answers = other.read()
    assert {(answer.code, answer.message) for answer in answers} == {
        ("unavailable", "a of job: no answer within 30 s; the outcome is unknown")
    }
    assert len(answers) == UNANSWERED
    worker.window_open = False
    here.hear(other, Call(100, "job", "a", b"1"))
    assert (worker.read(), one(other).code) == ([], "unavailable")


def test_who_ends_what_it_never_began_is_not_remembered() -> None:
    here, worker = Desk(), FakePeer()
    here.hear(worker, Serve(1, "s", "job", [], 1.0))  # its worker says of its end nothing
    assert one(worker) == Served(1)
    assert not any(here.desk._callees.values())


def test_a_look_at_late_calls_does_not_look_at_all_that_wait() -> None:
    class Counting(dict[str, Any]):
        looked = 0

        def items(self) -> Any:
            for item in super().items():
                self.looked += 1
                yield item

    here, worker = Desk(), FakePeer()
    waiting = here.desk._waiting = Counting()
    here.hear(worker, Serve(0, "s", "job", ["a"], 1.0))
    for ref in range(UNANSWERED):
        here.hear(worker, Call(ref + 1, "job", "a", b"1"))
        here.now += 0.1
    here.now += CALL_TIMEOUT - UNANSWERED * 0.1
    here.wait(0.0)
    assert (len(here.desk), waiting.looked) == (UNANSWERED - 1, 2)


PEERS, MEMBERS, TOPICS = 2, 2, ["x", "y"]
peers, members, topics = st.integers(0, PEERS - 1), st.integers(0, MEMBERS - 1), st.sampled_from(TOPICS)
STEPS = st.one_of(
    st.tuples(st.just("serve"), peers, members, topics, st.sampled_from([[], ["a"], ["a", "b"]]), st.floats(0, 9)),
    st.tuples(st.just("call"), peers, topics, st.sampled_from(["a", "b"])),
    st.tuples(st.just("call"), peers, topics, st.sampled_from(["a", "b"])),
    st.tuples(st.just("done"), st.integers(0, 50), st.booleans()),
    st.tuples(st.just("forge"), st.integers(0, 50), peers, members),
    st.tuples(st.just("withdraw"), peers, members),
    st.tuples(st.just("gone"), peers),
    st.tuples(st.just("wait"), st.floats(0, 40)),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(STEPS, min_size=15, max_size=40))
def test_every_call_is_answered_exactly_once(steps: list[Any]) -> None:
    here, links = Desk(), [FakePeer() for _ in range(PEERS)]
    asked: dict[int, int] = {}  # ref: by whose link
    answered: dict[int, Any] = {}
    calls: list[tuple[int, Calling]] = []  # at whom, what

    def collect() -> None:
        for number, peer in enumerate(links):
            for item in peer.read():
                if isinstance(item, Calling):
                    calls.append((number, item))
                elif isinstance(item, (Called, Refused)):
                    assert asked.get(item.ref) == number, "an answer goes to who asked"
                    assert item.ref not in answered, "twice"
                    answered[item.ref] = item

    for step in steps:
        match step:
            case ("serve", peer, member, topic, methods, since):
                here.hear(links[peer], Serve(0, f"{peer}.{member}", topic, methods, since))
            case ("call", peer, topic, method):
                ref = len(asked) + 1
                asked[ref] = peer
                here.hear(links[peer], Call(ref, topic, method, str(ref).encode()))
            case ("done", which, fine) if calls:
                peer, item = calls[which % len(calls)]
                error = None if fine else ("conflict", "no", None)
                here.hear(links[peer], CallDone(item.call, item.member, item.params, error))
            case ("forge", which, peer, member) if calls and calls[which % len(calls)][1].member != f"{peer}.{member}":
                before = len(here.desk)
                here.hear(links[peer], CallDone(calls[which % len(calls)][1].call, f"{peer}.{member}", b"0"))
                assert len(here.desk) == before
            case ("withdraw", peer, member):
                here.hear(links[peer], Withdraw(f"{peer}.{member}"))
            case ("gone", peer):
                collect()
                here.desk.gone(links[peer])
                links[peer] = FakePeer()
                asked = {ref: -1 if by == peer else by for ref, by in asked.items()}
            case ("wait", seconds):
                here.wait(seconds)
        collect()
        waiting = [ref for ref, by in asked.items() if by >= 0 and ref not in answered]
        assert len(here.desk) == len(waiting), "who has gone waits no longer, who is here is not forgotten"
        assert not here.desk or here.due, "somebody looks at the deadline"
    for ref, answer in answered.items():
        if isinstance(answer, Called):
            assert answer.result == str(ref).encode()
    here.wait(CALL_TIMEOUT)
    here.wait(CALL_TIMEOUT)
    collect()
    assert all(ref in answered for ref, by in asked.items() if by >= 0)
    for number in range(PEERS):
        here.desk.gone(links[number])
    assert not here.desk._offers and not here.desk._callees and not here.desk._waiting
