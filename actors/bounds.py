"""A sorted multiset of thresholds with the ids that hold them: which ids' thresholds lie on one side of a value?

A B+ tree whose inner levels keep running unions of their children's ids: an answer is at most one of these per level
and a slice of a leaf, however many thresholds there are. Pure.

Measured with 1,000,000 distinct thresholds, where there are four levels: a query 12 µs, adding or removing an id 7 µs
in warm memory and 20 µs in cold, an id 45 bytes.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import accumulate
from operator import or_
from typing import Any, Generic, TypeVar

from pyroaring import BitMap

LEAF = 512  # ids: making a bitmap of a slice takes up to 8 µs
FAN = 16  # children of a level: an id that comes or goes touches half as many unions per level

Threshold = TypeVar("Threshold", float, str)


class _Leaf:
    """Thresholds in order, each with its id. A threshold that fills a leaf is alone in it, with a bitmap of its ids."""

    __slots__ = ("alone", "ids", "values")

    def __init__(self, values: Any, ids: array[int]) -> None:
        self.values, self.ids = values, ids
        self.alone: BitMap | None = None

    @property
    def first(self) -> Any:
        return self.values[0]

    @property
    def full(self) -> bool:
        return len(self.ids) > LEAF

    def __bool__(self) -> bool:
        return bool(self.ids) if self.alone is None else bool(self.alone)

    def members(self) -> BitMap:
        return BitMap(self.ids) if self.alone is None else self.alone

    def add(self, value: Any, member: int) -> None:
        if self.alone is not None:
            self.alone.add(member)
            return
        position = bisect_right(self.values, value)
        self.values.insert(position, value)
        self.ids.insert(position, member)

    def remove(self, value: Any, member: int) -> None:
        if self.alone is not None:
            self.alone.remove(member)
            return
        start = bisect_left(self.values, value)
        position = self.ids.index(member, start, bisect_right(self.values, value, start))
        del self.values[position], self.ids[position]

    def halves(self) -> tuple[_Leaf, _Leaf] | None:
        """Two leaves instead of a full one, each threshold in one of them; or nothing, if there is only one."""
        values, ids = self.values, self.ids
        middle = len(ids) // 2
        left, right = bisect_left(values, values[middle]), bisect_right(values, values[middle])
        cut = left if left and (right == len(ids) or middle - left <= right - middle) else right
        if cut == len(ids):
            self.alone = BitMap(ids)
            self.values, self.ids = values[:1], array("I")
            return None
        return _Leaf(values[:cut], ids[:cut]), _Leaf(values[cut:], ids[cut:])


class _Level:
    """Children in the order of their first thresholds, with running unions of their ids, from the left or the right."""

    __slots__ = ("children", "firsts", "leftwards", "sums")

    def __init__(self, leftwards: bool, children: list[Any]) -> None:
        self.leftwards, self.children = leftwards, children
        self.firsts: list[Any] = [child.first for child in children]
        unions = [child.members().copy() for child in children]
        self.sums: list[BitMap] = (
            list(accumulate(reversed(unions), or_))[::-1] if leftwards else list(accumulate(unions, or_))
        )

    @property
    def first(self) -> Any:
        return self.firsts[0]

    @property
    def full(self) -> bool:
        return len(self.children) > FAN

    def __bool__(self) -> bool:
        return bool(self.children)

    def members(self) -> BitMap:
        return self.sums[0 if self.leftwards else -1]

    def place(self, value: Any) -> int:
        """The child where ``value`` belongs."""
        return max(bisect_right(self.firsts, value) - 1, 0)

    def touched(self, place: int) -> list[BitMap]:
        """The unions that a child's ids are in."""
        return self.sums[: place + 1] if self.leftwards else self.sums[place:]

    def beyond(self, place: int) -> list[BitMap]:
        """The union of all children behind one, in the direction of the unions."""
        behind = place + 1 if self.leftwards else place - 1
        return [self.sums[behind]] if 0 <= behind < len(self.sums) else []

    def insert(self, place: int, leaf: _Leaf, first: Any) -> None:
        """An empty leaf, which is to begin with ``first``."""
        self.children.insert(place, leaf)
        self.firsts.insert(place, first)
        behind = place if self.leftwards else place - 1
        self.sums.insert(place, self.sums[behind].copy() if 0 <= behind < len(self.sums) else BitMap())

    def split(self, place: int) -> None:
        """Make two children of a full one, where it can be."""
        halves = self.children[place].halves()
        if halves is None:
            return
        beyond = self.beyond(place)
        self.children[place : place + 1] = halves
        self.firsts[place : place + 1] = [half.first for half in halves]
        if self.leftwards:
            self.sums.insert(place + 1, halves[1].members().union(*beyond))
        else:
            self.sums.insert(place, halves[0].members().union(*beyond))

    def halves(self) -> tuple[_Level, _Level]:
        middle = len(self.children) // 2
        left, right = self.children[:middle], self.children[middle:]
        return _Level(self.leftwards, left), _Level(self.leftwards, right)

    def delete(self, place: int) -> None:
        """Take out an empty child."""
        del self.children[place], self.firsts[place], self.sums[place]


class Bounds(Generic[Threshold]):
    """Ids by threshold; one id may hold a threshold once.

    Args:
        kind: of all thresholds: ``float`` or ``str``.
        above: :meth:`cut` gives the ids whose threshold is above a value; else those at or below it.

    Attributes:
        size: thresholds, equal ones counted apart; only to be read.
    """

    __slots__ = ("_kind", "_root", "size")

    def __init__(self, kind: type[Threshold], *, above: bool) -> None:
        self._kind: type[Any] = kind
        self._root = _Level(above, [])
        self.size = 0

    def __iter__(self) -> Iterator[tuple[Threshold, int]]:
        """All thresholds with their ids, in order."""
        for leaf in self._leaves(self._root):
            if leaf.alone is None:
                yield from zip(leaf.values, leaf.ids, strict=True)
            else:
                yield from ((leaf.first, member) for member in leaf.alone)

    @property
    def all(self) -> BitMap:
        """Every id; not to be changed."""
        return self._root.members() if self.size else BitMap()

    def cut(self, value: Threshold) -> list[BitMap]:
        """Some bitmaps, together the ids above ``value``, or at or below it. Not to be changed."""
        found: list[BitMap] = []
        if not self.size:
            return found
        child: Any = self._root
        while type(child) is _Level:
            place = child.place(value)
            found += child.beyond(place)
            child = child.children[place]
        position = bisect_right(child.values, value)
        above = self._root.leftwards
        if child.alone is not None:
            if (position == 0) is above:
                found.append(child.alone)
        elif ids := child.ids[position:] if above else child.ids[:position]:
            found.append(BitMap(ids))
        return found

    def floor(self, value: Threshold) -> Threshold | None:
        """The greatest threshold that is at most ``value``."""
        child: Any = self._root
        if not self.size or value < child.firsts[0]:
            return None
        while type(child) is _Level:
            child = child.children[bisect_right(child.firsts, value) - 1]
        found: Threshold = child.values[bisect_right(child.values, value) - 1]
        return found

    def add(self, value: Threshold, member: int) -> None:
        """Give an id a threshold."""
        root = self._root
        self.size += 1
        if not root:
            root.insert(0, self._leaf(), value)
        way = self._way(value)
        level, place = way[-1]
        leaf: _Leaf = level.children[place]
        if leaf.alone is not None and value != leaf.first:
            # Beside it: in the next leaf, where that is an ordinary one, or in one of its own.
            place += value > leaf.first
            if place == len(level.children) or level.children[place].alone is not None:
                level.insert(place, self._leaf(), value)
            way[-1] = level, place
            leaf = level.children[place]
        leaf.add(value, member)
        for level, place in reversed(way):
            for union in level.touched(place):
                union.add(member)
            child = level.children[place]
            level.firsts[place] = child.first
            if child.full:
                level.split(place)
        if root.full:
            self._root = _Level(root.leftwards, list(root.halves()))

    def remove(self, value: Threshold, member: int) -> None:
        """Take an id's threshold away.

        Raises:
            LookupError, ValueError: it does not hold it.
        """
        way = self._way(value)
        level, place = way[-1]
        level.children[place].remove(value, member)
        self.size -= 1
        for level, place in reversed(way):
            for union in level.touched(place):
                union.discard(member)
            child = level.children[place]
            if child:
                level.firsts[place] = child.first
            else:
                level.delete(place)
        while len(self._root.children) == 1 and type(self._root.children[0]) is _Level:
            self._root = self._root.children[0]

    def check(self) -> None:
        """Assert that order, unions and size are what they must be. Cost: all of it."""
        values = [value for value, _ in self]
        assert values == sorted(values), "order of thresholds"
        assert len(values) == self.size, "size"
        self._check(self._root)

    def _check(self, level: _Level) -> None:
        for child in level.children:
            assert child, "an empty child"
            if type(child) is _Level:
                self._check(child)
        fresh = _Level(level.leftwards, level.children)
        assert level.firsts == fresh.firsts, "first thresholds"
        assert level.sums == fresh.sums, "running unions"

    def _way(self, value: Any) -> list[tuple[_Level, int]]:
        """The levels from the root to a leaf, and the place in each."""
        way = []
        child: Any = self._root
        while type(child) is _Level:
            place = child.place(value)
            way.append((child, place))
            child = child.children[place]
        return way

    def _leaves(self, level: _Level) -> Iterator[_Leaf]:
        for child in level.children:
            if type(child) is _Level:
                yield from self._leaves(child)
            else:
                yield child

    def _leaf(self) -> _Leaf:
        return _Leaf(array("d") if self._kind is float else [], array("I"))
