"""The states of an upstream feed and the ways between them: pure data."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from transport.errors import HeliographError


class FeedState(StrEnum):
    """Where a feed stands."""

    DISCONNECTED = "disconnected"  # not started, stopped, or held by an operator
    CONNECTING = "connecting"
    CONNECTED = "connected"
    RECONNECTING = "reconnecting"  # waits for its next attempt
    DISCONNECTING = "disconnecting"  # the closing handshake
    FAILED = "failed"  # will not try again by itself: gave up, or its token was refused


TRANSITIONS: Mapping[FeedState, frozenset[FeedState]] = {
    FeedState.DISCONNECTED: frozenset({FeedState.CONNECTING, FeedState.RECONNECTING, FeedState.FAILED}),
    FeedState.CONNECTING: frozenset(
        {FeedState.CONNECTED, FeedState.RECONNECTING, FeedState.DISCONNECTING, FeedState.FAILED}
    ),
    FeedState.CONNECTED: frozenset({FeedState.RECONNECTING, FeedState.DISCONNECTING, FeedState.FAILED}),
    FeedState.RECONNECTING: frozenset({FeedState.CONNECTING, FeedState.DISCONNECTED, FeedState.FAILED}),
    FeedState.DISCONNECTING: frozenset({FeedState.DISCONNECTED}),
    FeedState.FAILED: frozenset({FeedState.CONNECTING, FeedState.RECONNECTING, FeedState.DISCONNECTED}),
}
"""Where each state may lead; nothing else is legal."""


class IllegalTransition(HeliographError):
    """A bug: a feed was about to go where its state does not lead."""

    def __init__(self, state: FeedState, to: FeedState) -> None:
        super().__init__(f"{state} does not lead to {to}")


def check_transition(state: FeedState, to: FeedState) -> None:
    """Raise :class:`IllegalTransition` unless ``state`` leads to ``to``."""
    if to not in TRANSITIONS[state]:
        raise IllegalTransition(state, to)
