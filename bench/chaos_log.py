"""Who has got what, and what was acknowledged: the oracle of :mod:`bench.chaos`. Pure; it asks the engine nothing.

All receivers subscribe before the first event of their topics. So each of them has to get every event of these topics,
from offset 1 on, in order, until the last that was acknowledged.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

EXPLAINED = 20  # faults that are kept as text; of the others only the number


class Faults:
    """What was wrong: the first few as text, and how many.

    Attributes:
        texts: bounded.
        count: of all.
    """

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.count = 0

    def add(self, text: str) -> None:
        """One more."""
        self.count += 1
        if len(self.texts) < EXPLAINED:
            self.texts.append(text)


class Acknowledged(msgspec.Struct):
    """What publishers were told: per topic the epoch, and the events' numbers from offset 1 on."""

    epochs: dict[str, str]
    numbers: dict[str, list[int | None]]

    def ends(self) -> dict[str, int]:
        """The last offset of each topic."""
        return {topic: len(numbers) for topic, numbers in self.numbers.items()}


class Ledger:
    """The events of all topics, as the first who saw them did; what others say of the same place must agree.

    Attributes:
        epochs: the one of each topic.
        numbers: by topic and offset the number that the publisher gave the event.
    """

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self.epochs: dict[str, str] = {}
        self.numbers: dict[str, dict[int, int]] = {}
        self._places: dict[int, tuple[str, int]] = {}

    def see(self, who: str, topic: str, epoch: str, offset: int, number: int) -> None:
        """Somebody got an event there, or was told that it is there. O(1)."""
        numbers = self.numbers.get(topic)
        if numbers is None:
            numbers = self.numbers[topic] = {}
            self.epochs[topic] = epoch
        if epoch != self.epochs[topic]:
            self.faults.add(f"{who}: {topic} has epoch {epoch}, and had {self.epochs[topic]}")
        known = numbers.get(offset)
        if known is None:
            numbers[offset] = number
            if (other := self._places.setdefault(number, (topic, offset))) != (topic, offset):
                self.faults.add(f"{who}: event {number} is {topic} {offset}, and was {other}: accepted twice")
        elif known != number:
            self.faults.add(f"{who}: {topic} {offset} is event {number}, and was {known}")

    def agree(self, told: Acknowledged) -> None:
        """Hold what was acknowledged against what was seen."""
        for topic, numbers in told.numbers.items():
            for offset, number in enumerate(numbers, 1):
                if number is not None:
                    self.see("acknowledged", topic, told.epochs[topic], offset, number)

    def acknowledged(self) -> Acknowledged:
        """All of a ledger that publishers wrote."""
        numbers = {
            topic: [numbers.get(offset) for offset in range(1, max(numbers) + 1)]
            for topic, numbers in self.numbers.items()
        }
        return Acknowledged(dict(self.epochs), numbers)


class Receiver:
    """What one client has got, and what it says when it comes back.

    Args:
        patterns: of its subscription. ``topics``: those of the test that they match.
        exact: whether it resumes by offsets; then nothing may come twice. Else it does by position: what comes again
            must be younger than the position before the one it named, and come in order once more.

    Attributes:
        at: by topic the offset of the last event.
        resumed: how often it came back. ``repeated``: events that came again.
    """

    def __init__(self, name: str, ledger: Ledger, patterns: list[str], topics: Iterable[str], exact: bool) -> None:
        self.name, self.patterns, self.topics, self.exact = name, patterns, frozenset(topics), exact
        self._ledger, self._faults = ledger, ledger.faults
        self.at: dict[str, int] = dict.fromkeys(self.topics, 0)
        self._most = dict(self.at)
        self._epochs: dict[str, str] = {}
        self._position: str | None = None
        self._told = self._told_before = dict(self.at)  # `at` when the last position came, and the one before
        self._open: set[str] = set()  # topics that may step back: nothing of them has come since the return
        self.begun = False
        self.resumed = self.repeated = 0

    def since(self) -> Any:
        """What to say on subscribing; ``None``: nothing, it is new."""
        if not self.begun:
            return None
        if self.exact:
            return {topic: {"epoch": self._epochs[topic], "offset": at} for topic, at in self.at.items()}
        return self._position

    def subscribed(self, epochs: dict[str, str], position: str, recovered: bool | None) -> None:
        """The answer."""
        if not self.begun:
            self.begun = True
            self._position = position
            self._epochs = {topic: epochs.get(topic, "") for topic in self.topics}
            return
        self.resumed += 1
        if recovered is not True:
            self._faults.add(f"{self.name}: not recovered since {self.since()}: {recovered}")
        if not self.exact:
            self._open = set(self.topics)

    def event(self, topic: str, epoch: str, offset: int, number: int) -> None:
        """An event came."""
        self._ledger.see(self.name, topic, epoch, offset, number)
        at = self.at.get(topic)
        if at is None:
            self._faults.add(f"{self.name}: {topic} {offset} was not asked for")
            return
        if topic in self._open:
            self._open.discard(topic)
            if offset > self._told[topic] + 1:
                self._faults.add(
                    f"{self.name}: {topic} goes on with {offset}, but its position came at {self._told[topic]}"
                )
            if offset <= at:
                if offset <= self._told_before[topic]:
                    self._faults.add(f"{self.name}: {topic} {offset} again, which came before the former position")
                at = offset - 1
        if offset != at + 1:
            self._faults.add(f"{self.name}: {topic} {offset} after {at}")
        self.at[topic] = offset
        self._epochs[topic] = epoch
        if offset <= self._most[topic]:
            self.repeated += 1
        else:
            self._most[topic] = offset

    def position(self, position: str) -> None:
        """The engine said how far this client is."""
        self._position = position
        self._told_before, self._told = self._told, dict(self.at)

    def gap(self, text: str) -> None:
        """The engine said that something is lost, which it never may."""
        self._faults.add(f"{self.name}: {text}")

    def lacks(self, ends: dict[str, int]) -> list[str]:
        """Topics of which it has not got everything up to these offsets."""
        return [topic for topic in self.topics if self.at[topic] < ends.get(topic, 0)]
