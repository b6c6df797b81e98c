"""Which patterns match a topic: a trie over tokens. Pure; used by the hub for workers and by a worker for sessions.

Cost of a match: O(tokens × branches that really match), independent of the number of patterns that do not.
Memory: one node per distinct token prefix.
"""

from __future__ import annotations

from collections.abc import Iterator

from transport.topics import RESERVED


class _Node:
    __slots__ = ("children", "here", "rest")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.here: str | None = None  # the pattern that ends at this node
        self.rest: str | None = None  # the pattern that ends here with `>`


class PatternIndex:
    """A set of topic patterns with ``match(topic)``."""

    def __init__(self) -> None:
        self._root = _Node()
        self._patterns: set[str] = set()

    def __len__(self) -> int:
        return len(self._patterns)

    def __contains__(self, pattern: str) -> bool:
        return pattern in self._patterns

    def __iter__(self) -> Iterator[str]:
        return iter(self._patterns)

    def add(self, pattern: str) -> bool:
        """Add a valid pattern; whether it is new."""
        if pattern in self._patterns:
            return False
        self._patterns.add(pattern)
        node = self._root
        for token in pattern.split("."):
            if token == ">":
                node.rest = pattern
                return True
            node = node.children.setdefault(token, _Node())
        node.here = pattern
        return True

    def remove(self, pattern: str) -> bool:
        """Remove a pattern; whether it was there. Nodes that lead nowhere go too."""
        if pattern not in self._patterns:
            return False
        self._patterns.discard(pattern)
        tokens = pattern.split(".")
        way = [self._root]
        for token in tokens:
            if token == ">":
                way[-1].rest = None
                break
            way.append(way[-1].children[token])
        else:
            way[-1].here = None
        for depth in range(len(way) - 1, 0, -1):
            node = way[depth]
            if node.children or node.here is not None or node.rest is not None:
                break
            del way[depth - 1].children[tokens[depth - 1]]
        return True

    def match(self, topic: str) -> tuple[str, ...]:
        """The patterns that match ``topic``, sorted, so that equal sets compare equal."""
        tokens = topic.split(".")
        found: list[str] = []
        frontier = [self._root]
        wild = tokens[0] not in RESERVED
        for token in tokens:
            following: list[_Node] = []
            for node in frontier:
                if wild and node.rest is not None:
                    found.append(node.rest)
                child = node.children.get(token)
                if child is not None:
                    following.append(child)
                if wild and (star := node.children.get("*")) is not None:
                    following.append(star)
            wild = True
            frontier = following
            if not frontier:
                break
        found.extend(node.here for node in frontier if node.here is not None)
        found.sort()
        return tuple(found)
