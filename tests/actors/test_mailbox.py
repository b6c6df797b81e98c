"""Mailboxes without a loop: bounds, policies, what is counted, and the handover from one actor to the next."""

from __future__ import annotations

import queue
import threading

import pykka
import pytest
from pykka._envelope import Envelope

from actors.mailbox import Mailbox, Overflow
from actors.ref import Halt
from actors.reply import AskTimeout, Reply
from transport.errors import ActorError, MailboxFull


class Consumer(pykka.ThreadingActor):
    """Never started: stands for an attached actor."""


def attached(mailbox: Mailbox) -> tuple[Consumer, list[int]]:
    actor, wakes = Consumer(), list[int]()
    mailbox.attach(actor, threading.Thread(), lambda: wakes.append(len(mailbox.items)))
    assert mailbox.rest()
    return actor, wakes


def contents(mailbox: Mailbox) -> list[object]:
    return [mailbox.items.popleft() for _ in range(len(mailbox.items))]


def test_wakes_once_until_the_consumer_rests() -> None:
    mailbox = Mailbox("m")
    _, wakes = attached(mailbox)
    mailbox.put(1)
    mailbox.put(2)
    assert wakes == [1]
    assert not mailbox.rest(), "something waits"
    contents(mailbox)
    assert mailbox.rest()
    mailbox.put(3)
    assert wakes == [1, 1]


def test_what_is_handed_over_is_handled_at_once_by_a_consumer_that_rests() -> None:
    mailbox, actor = Mailbox("m"), Consumer()
    handled: list[object] = []

    def run() -> None:
        mailbox.hand("amid")  # its own consumer is not called a second time
        handled.extend(contents(mailbox))
        mailbox.rest()

    wakes: list[int] = []
    mailbox.attach(actor, threading.current_thread(), lambda: wakes.append(1), run)
    mailbox.hand("before the first rest")
    assert (handled, wakes) == ([], []), "it looks by itself"
    handled.extend(contents(mailbox))
    mailbox.rest()
    mailbox.hand(1)
    assert handled == ["before the first rest", 1, "amid"]
    mailbox.put(2)
    mailbox.hand(3)
    assert (handled[3:], wakes) == ([], [1]), "behind what waits"
    run()
    stranger = threading.Thread(target=mailbox.hand, args=(4,))
    stranger.start()
    stranger.join()
    assert (handled[3:], wakes) == ([2, 3, "amid"], [1, 1]), "on its own thread only"
    mailbox.detach(actor)
    mailbox.hand(5)
    assert contents(mailbox) == [4, 5], "what waits for a successor"
    mailbox.close()
    mailbox.hand(6)
    assert mailbox.statistics().dead_letters == 1


@pytest.mark.parametrize(
    ("overflow", "kept"),
    [(Overflow.DROP_NEWEST, [1, 2, 3]), (Overflow.DROP_OLDEST, [3, 4, 5])],
)
def test_full_mailbox_drops_by_its_policy_and_counts(overflow: Overflow, kept: list[int]) -> None:
    mailbox = Mailbox("m", capacity=3, overflow=overflow)
    for number in (1, 2, 3, 4, 5):
        mailbox.ref.tell(number)
    assert mailbox.statistics().dropped == 2
    assert mailbox.statistics().depth == 3
    assert contents(mailbox) == kept


def test_refusing_mailbox_tells_the_sender() -> None:
    mailbox = Mailbox("m", capacity=1, overflow=Overflow.REFUSE)
    mailbox.ref.tell(1)
    with pytest.raises(MailboxFull, match=r"mailbox m is full \(1 messages\)"):
        mailbox.ref.tell(2)
    assert mailbox.statistics().dropped == 1


@pytest.mark.parametrize("overflow", list(Overflow))
def test_question_that_meets_a_full_mailbox_is_answered(overflow: Overflow) -> None:
    mailbox = Mailbox("m", capacity=1, overflow=overflow)
    first = mailbox.ref.ask("first", block=False)
    second = mailbox.ref.ask("second", block=False)
    loser = first if overflow is Overflow.DROP_OLDEST else second
    with pytest.raises(MailboxFull):
        loser.get(timeout=0)


@pytest.mark.parametrize("overflow", list(Overflow))
def test_a_stop_is_never_dropped(overflow: Overflow) -> None:
    mailbox = Mailbox("m", capacity=1, overflow=overflow)
    mailbox.ref.stop(block=False)
    mailbox.put_control(Halt())
    try:
        mailbox.put("late")
    except MailboxFull:
        assert overflow is Overflow.REFUSE
    first, second = contents(mailbox)
    assert isinstance(first, Envelope)
    assert second == Halt()


def test_what_waits_survives_the_consumer() -> None:
    mailbox = Mailbox("m")
    first, wakes = attached(mailbox)
    assert mailbox.detach(first)
    assert not mailbox.detach(first), "once"
    mailbox.put(1)
    assert wakes == [], "there is nobody to wake"
    successor, wakes = Consumer(), []
    mailbox.attach(successor, threading.Thread(), lambda: wakes.append(1))
    assert not mailbox.rest(), "it looks before it rests"
    assert not mailbox.detach(first), "a predecessor has no say"
    assert contents(mailbox) == [1]


def test_two_consumers_are_refused() -> None:
    mailbox = Mailbox("m")
    attached(mailbox)
    with pytest.raises(ActorError, match="already has an actor"):
        attached(mailbox)


def test_closed_mailbox_counts_dead_letters_and_answers() -> None:
    mailbox = Mailbox("m")
    waiting, stopping = mailbox.ref.ask("q", block=False), mailbox.ref.stop(block=False)
    mailbox.ref.tell(1)
    assert mailbox.ref.is_alive()
    assert mailbox.close() == 2
    mailbox.ref.tell(2)
    assert not mailbox.ref.is_alive()
    assert mailbox.statistics().dead_letters == 3
    assert mailbox.statistics().dropped == 0
    assert mailbox.statistics().depth == 0
    for question in (waiting, mailbox.ref.ask("q", block=False)):
        with pytest.raises(pykka.ActorDeadError):
            question.get(timeout=0)
    assert stopping.get(timeout=0) is True
    assert mailbox.ref.stop() is False
    with pytest.raises(ActorError, match="closed"):
        attached(mailbox)


def test_message_that_slips_past_the_close_is_buried_too() -> None:
    mailbox = Mailbox("m")
    mailbox.close()
    mailbox._limit = 1  # a sender that compared just before the close
    mailbox.put("late")
    assert mailbox.statistics().dead_letters == 1
    assert mailbox.statistics().depth == 0


def test_order_holds_for_each_sending_thread() -> None:
    mailbox, senders, each = Mailbox("m", capacity=100_000), 4, 2_000
    barrier = threading.Barrier(senders)

    def send(sender: int) -> None:
        barrier.wait()
        for number in range(each):
            mailbox.ref.tell((sender, number))

    threads = [threading.Thread(target=send, args=(sender,)) for sender in range(senders)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    received = contents(mailbox)
    assert len(received) == senders * each
    for sender in range(senders):
        assert [item[1] for item in received if item[0] == sender] == list(range(each))  # type: ignore[index]


def test_capacity_must_be_positive() -> None:
    with pytest.raises(ValueError, match="capacity of mailbox m must be at least 1, not 0"):
        Mailbox("m", capacity=0)


def test_speaks_pykkas_inbox_protocol() -> None:
    mailbox = Mailbox("m")
    assert mailbox.empty()
    mailbox.put("bare")
    assert mailbox.get().message == "bare"
    with pytest.raises(queue.Empty):
        mailbox.get()


def test_first_answer_wins_and_no_answer_is_a_named_error() -> None:
    mailbox = Mailbox("m")
    reply = Reply(mailbox)
    with pytest.raises(AskTimeout, match=r"no answer from m in 0\.001 s"):
        reply.get(timeout=0.001)
    reply.set(1)
    reply.set(2)
    reply.fail(ValueError())
    assert reply.get() == 1
    assert issubclass(AskTimeout, TimeoutError)
    assert issubclass(AskTimeout, pykka.Timeout)
