"""A sorted multiset of thresholds with the ids that hold them: which ids' thresholds lie on one side of a value?

Three levels: a root of nodes, nodes of leaves, leaves of sorted thresholds with their ids. Root and nodes keep running
unions of their children's ids, so that an answer is at most one bitmap of the root, one of a node and a slice of a leaf,
however many thresholds there are. Pure.

Measured with 1,000,000 distinct thresholds: a query 6 µs, adding or removing 5 µs, 45 bytes an id.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import accumulate
from operator import or_
from typing import Any, Generic, TypeVar

from pyroaring import BitMap

LEAF = 512  # ids; a full leaf splits between two thresholds
NODE = 64  # leaves

Threshold = TypeVar("Threshold", float, str)


class _Leaf:
    """Thresholds in order, each with its id. One threshold that would fill a leaf has it alone, and its ids in a bitmap."""

    __slots__ = ("alone", "ids", "values")

    def __init__(self, values: Any, ids: array[int]) -> None:
        self.values, self.ids = values, ids
        self.alone: BitMap | None = None

    @property
    def first(self) -> Any:
        return self.values[0]

    def members(self) -> BitMap:
        return BitMap(self.ids) if self.alone is None else self.alone

    def __bool__(self) -> bool:
        return bool(self.ids) if self.alone is None else bool(self.alone)


class _Level:
    """Children in order of their first thresholds, and running unions of their ids: from the left or from the right."""

    __slots__ = ("children", "firsts", "leftwards", "sums")

    def __init__(self, leftwards: bool, children: list[Any]) -> None:
        self.leftwards, self.children = leftwards, children
        self.firsts = [child.first for child in children]
        unions = [child.members() for child in children]
        if leftwards:
            self.sums = list(accumulate(reversed(unions), or_))[::-1]
        else:
            self.sums = list(accumulate(unions, or_))
        if self.sums:  # the first of them is a child's own
            end = -1 if leftwards else 0
            self.sums[end] = self.sums[end].copy()

    @property
    def first(self) -> Any:
        return self.firsts[0]

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

    def insert(self, place: int, child: Any) -> None:
        """A child whose ids the unions of the others do not have yet."""
        self.children.insert(place, child)
        self.firsts.insert(place, child.first)
        beside = place if self.leftwards else place - 1
        self.sums.insert(place, self.sums[beside].copy() if 0 <= beside < len(self.sums) else BitMap())
        members = child.members()
        for union in self.touched(place):
            union |= members

    def split(self, place: int, left: Any, right: Any) -> None:
        """Two children instead of one, with the same ids."""
        self.children[place : place + 1] = left, right
        self.firsts[place : place + 1] = left.first, right.first
        if self.leftwards:
            after = self.sums[place + 1 : place + 2]
            self.sums.insert(place + 1, right.members().union(*after))
        else:
            before = self.sums[place - 1 : place] if place else []
            self.sums.insert(place, left.members().union(*before))

    def delete(self, place: int) -> None:
        """An empty child."""
        del self.children[place], self.firsts[place], self.sums[place]


class Bounds(Generic[Threshold]):
    """Ids by threshold, all of them numbers (floats) or all strings.

    Args:
        above: :meth:`cut` gives the ids whose threshold is above a value, else those at or below it.
        kind: ``float`` or ``str``.
    """

    __slots__ = ("_above", "_kind", "_root", "_size")

    def __init__(self, kind: type[Threshold], *, above: bool) -> None:
        self._kind, self._above = kind, above
        self._root = _Level(above, [])
        self._size = 0

    def __len__(self) -> int:
        return self._size

    @property
    def all(self) -> BitMap:
        """Every id; not to be changed."""
        return self._root.members() if self._size else BitMap()

    def cut(self, value: Threshold) -> list[BitMap]:
        """Up to three bitmaps, together the ids above ``value``, or at or below it. Not to be changed."""
        root = self._root
        if not self._size:
            return []
        at = root.place(value)
        node = root.children[at]
        within = node.place(value)
        leaf = node.children[within]
        step = 1 if self._above else -1
        found = [level.sums[p + step] for level, p in ((root, at), (node, within)) if 0 <= p + step < len(level.sums)]
        position = bisect_right(leaf.values, value)
        if leaf.alone is not None:
            if (position == 0) is self._above:
                found.append(leaf.alone)
        elif ids := leaf.ids[position:] if self._above else leaf.ids[:position]:
            found.append(BitMap(ids))
        return found

    def floor(self, value: Threshold) -> Threshold | None:
        """The greatest threshold that is at most ``value``."""
        root = self._root
        if not self._size or value < root.first:
            return None
        node = root.children[bisect_right(root.firsts, value) - 1]
        values = node.children[bisect_right(node.firsts, value) - 1].values
        found: Threshold = values[bisect_right(values, value) - 1]
        return found

    def add(self, value: Threshold, member: int) -> None:
        """Give an id a threshold; an id has one at a time."""
        root = self._root
        self._size += 1
        if not root.children:
            root.insert(0, _Level(self._above, [self._leaf(value, member)]))
            return
        at = root.place(value)
        node = root.children[at]
        within = node.place(value)
        leaf = node.children[within]
        if leaf.alone is not None and value != leaf.first:
            # Beside it: into the next leaf, where that is an ordinary one, or into one of its own.
            within += value > leaf.first
            leaf = node.children[within] if within < len(node.children) else None
            if leaf is None or leaf.alone is not None:
                leaf = self._leaf(value, member)
                node.insert(within, leaf)
                self._touch(root, at, node, member)
                self._split_node(at, node)
                return
        if leaf.alone is not None:
            leaf.alone.add(member)
        else:
            position = bisect_right(leaf.values, value)
            leaf.values.insert(position, value)
            leaf.ids.insert(position, member)
        for union in node.touched(within):
            union.add(member)
        node.firsts[within] = leaf.first
        self._touch(root, at, node, member)
        if len(leaf.ids) > LEAF:
            self._split_leaf(node, within, leaf)
            self._split_node(at, node)

    def remove(self, value: Threshold, member: int) -> None:
        """Take an id's threshold away.

        Raises:
            ValueError, IndexError: the id does not have it.
        """
        root = self._root
        at = root.place(value)
        node = root.children[at]
        within = node.place(value)
        leaf = node.children[within]
        if leaf.alone is not None:
            leaf.alone.remove(member)
        else:
            start = bisect_left(leaf.values, value)
            position = leaf.ids.index(member, start, bisect_right(leaf.values, value, start))
            del leaf.values[position], leaf.ids[position]
        self._size -= 1
        for union in (*node.touched(within), *root.touched(at)):
            union.discard(member)
        if leaf:
            node.firsts[within] = leaf.first
        else:
            node.delete(within)
        if node:
            root.firsts[at] = node.first
        else:
            root.delete(at)

    def __iter__(self) -> Iterator[tuple[Threshold, int]]:
        for node in self._root.children:
            for leaf in node.children:
                if leaf.alone is None:
                    yield from zip(leaf.values, leaf.ids, strict=True)
                else:
                    yield from ((leaf.first, member) for member in leaf.alone)

    def check(self) -> None:
        """Assert that order, unions and sizes are what they must be. Cost: all of it."""
        pairs = list(self)
        assert len(pairs) == self._size, "size"
        assert [value for value, _ in pairs] == sorted(value for value, _ in pairs), "order"
        assert {id(level) for level in self._root.children if not level} == set(), "an empty node"
        for level in (self._root, *self._root.children):
            fresh = _Level(self._above, level.children)
            assert all(level.children), "an empty child"
            assert fresh.firsts == level.firsts, "first thresholds"
            assert fresh.sums == level.sums, "unions"

    def _leaf(self, value: Threshold, member: int) -> _Leaf:
        return _Leaf(array("d", (value,)) if self._kind is float else [value], array("I", (member,)))

    def _touch(self, root: _Level, at: int, node: _Level, member: int) -> None:
        root.firsts[at] = node.first
        for union in root.touched(at):
            union.add(member)

    def _split_leaf(self, node: _Level, within: int, leaf: _Leaf) -> None:
        values, ids = leaf.values, leaf.ids
        middle = len(ids) // 2
        left, right = bisect_left(values, values[middle]), bisect_right(values, values[middle])
        cut = left if left and (middle - left <= right - middle or right == len(ids)) else right
        if cut == len(ids):  # one threshold has all of it
            leaf.alone = BitMap(ids)
            leaf.values, leaf.ids = values[:1], array("I")
            return
        node.split(within, _Leaf(values[:cut], ids[:cut]), _Leaf(values[cut:], ids[cut:]))

    def _split_node(self, at: int, node: _Level) -> None:
        if len(node.children) > NODE:
            half = len(node.children) // 2
            left = _Level(self._above, node.children[:half])
            self._root.split(at, left, _Level(self._above, node.children[half:]))
