"""An audience: who gets the events of the topics that one set of patterns matches, under one topic policy. Pure.

Sessions that want every event form cohorts, a route per :class:`Delivery`. Those that have only filtered subscriptions
are selected per event: by its class, so that prices and confidences do not defeat the cache.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from actors.filter_index import FilterIndex
from actors.messages import Disband, Hold, Join, Leave, Select, Urgent
from actors.route import Route
from actors.subscription import PLAIN, Delivery, Subscription
from actors.topic_policy import Strategy, TopicPolicy
from transport.codes import Priority
from transport.messages import Publication
from transport.wire_forms import WireForm

if TYPE_CHECKING:
    from actors.session import Session

COHORT = 256
"""Members of a route: so many clients are written to in a millisecond or two, then what came meanwhile goes along."""
SELECTIONS = 4_096  # classes of events in each of the cache's two generations
SELECTED = 250_000  # sessions listed in one generation: 2 MB of references


class Selection:
    """The sessions whose filters accept one class of events. Immutable: a change makes another one.

    Attributes:
        lanes: who gets the event with the next flush, per wire form.
        routes: the held routes of the others, one session each.
        by_priority: whether what waits goes by priority.
        size: sessions in all.
        versions: of the filter indexes, up to which this is known to hold.
    """

    __slots__ = ("by_priority", "lanes", "routes", "size", "versions")

    def __init__(self, wanted: dict[Session, Delivery], versions: list[int], ops: list[Any]) -> None:
        lanes: dict[WireForm, list[Session]] = {}
        routes = []
        by_priority = False
        for session, delivery in wanted.items():
            if delivery is not PLAIN:  # most are
                by_priority = by_priority or delivery.by_priority
                if delivery.held:
                    routes.append(_private(session, delivery, ops))
                    continue
            lane = lanes.get(session.form)
            if lane is None:
                lane = lanes[session.form] = []
            lane.append(session)
        self.lanes = tuple((form, tuple(sessions)) for form, sessions in lanes.items())
        self.routes = tuple(routes)
        self.by_priority = by_priority
        self.size = len(wanted)
        self.versions = versions

    @classmethod
    def of(cls, session: Session) -> Selection:
        """One session, whatever comes."""
        return cls({session: PLAIN}, [], [])


def _private(session: Session, delivery: Delivery, ops: list[Any]) -> Route:
    """A session's own held route: what it selects is not what others select."""
    if session.private is None:
        session.private = {}
    route = session.private.get(delivery)
    if route is None:
        route = session.private[delivery] = Route(delivery)
        route.size = 1
        ops.append(Join(route, [session]))
    return route


class Audience:
    """Runs on the worker's loop; appends what the broadcaster has to do to ``ops``.

    Attributes:
        patterns, policy: what it is found by; the patterns are sorted.
        routes: the cohorts'.
        plain: the same where that says all; else empty, and :meth:`spread` must be asked.
    """

    __slots__ = (
        *("_at_once", "_cohorts", "_cold", "_filters", "_held", "_hot", "_placed", "_weight"),
        *("patterns", "plain", "policy", "routes"),
    )

    def __init__(self, patterns: tuple[str, ...], policy: TopicPolicy) -> None:
        self.patterns, self.policy = patterns, policy
        self._cohorts: dict[Delivery, list[Route]] = {}
        self._placed: dict[Session, Route] = {}
        self._filters: tuple[FilterIndex[Subscription], ...] = ()
        self._hot: dict[Hashable, Selection] = {}
        self._cold: dict[Hashable, Selection] = {}
        self._weight = 0
        self.routes: tuple[Route, ...] = ()
        self.plain: tuple[Route, ...] = ()
        self._at_once: tuple[Route, ...] = ()
        self._held: tuple[Route, ...] = ()

    @property
    def unfiltered(self) -> bool:
        """Whether filters are ignored."""
        return self.policy.strategy is Strategy.BROADCAST_ALL

    # members --------------------------------------------------------------------------------------------------------

    def place(self, session: Session, ops: list[Any], joins: list[Join]) -> None:
        """Find a session's cohort again after a change of its subscriptions.

        It leaves at once; a :class:`Join` is put to ``joins``, for the caller to say when. ``joins`` holds what nobody
        has said yet, of this session only where it may leave.
        """
        wanted = self.wanted(session)
        before = self._placed.get(session)
        if (None if before is None else before.delivery) == wanted:
            return
        if before is not None:
            joins[:] = [join for join in joins if join.route is not before]  # of another pattern of the same request
            ops.append(Leave(before, session))
            del self._placed[session]
            before.size -= 1
            if not before.size:
                self._remove(before)
                ops.append(Disband(before))
        if wanted is not None:
            route = self._with_room(wanted)
            self._placed[session] = route
            route.size += 1
            joins.append(Join(route, [session]))

    def _with_room(self, wanted: Delivery) -> Route:
        """A route for one more. What is held waits for its own time, so those are not divided."""
        cohorts = self._cohorts.setdefault(wanted, [])
        for route in reversed(cohorts):
            if wanted.held or route.size < COHORT:
                return route
        cohorts.append(Route(wanted))
        self._simplify()
        return cohorts[-1]

    def _remove(self, route: Route) -> None:
        cohorts = self._cohorts[route.delivery]
        cohorts.remove(route)
        if not cohorts:
            del self._cohorts[route.delivery]
        self._simplify()

    def wanted(self, session: Session) -> Delivery | None:
        """The cohort that a session's subscriptions ask for; ``None``: they are filtered, or not for these topics."""
        subscriptions = self._of(session)
        whole = any(subscription.filter is None or self.unfiltered for subscription in subscriptions)
        return self._delivery(subscriptions) if whole else None

    def cohort(self, session: Session) -> Route | None:
        """Where a session is."""
        return self._placed.get(session)

    @property
    def placed(self) -> int:
        """Sessions in all cohorts."""
        return len(self._placed)

    @property
    def selections(self) -> int:
        """Classes of events whose receivers are remembered."""
        return len(self._hot) + len(self._cold)

    def changed(self, session: Session, pattern: str) -> None:
        """A subscription came or went. Filter indexes know what that means for their own events, but a session's other
        subscriptions here may have to be delivered otherwise now."""
        held = session.subscriptions or {}
        if self._filters and any(other in held for other in self.patterns if other != pattern):
            self.forget()

    def _of(self, session: Session) -> list[Subscription]:
        held = session.subscriptions or {}
        subscriptions = [held[pattern] for pattern in self.patterns if pattern in held]
        return [subscription for subscription in subscriptions if subscription.group is None]

    def _delivery(self, subscriptions: Iterable[Subscription]) -> Delivery:
        """The least restrictive one, whatever the filters say of an event: a topic's events keep their order only if a
        session gets all of them in one way."""
        return self._under_policy(min((subscription.delivery for subscription in subscriptions), key=_restriction))

    def _under_policy(self, wanted: Delivery) -> Delivery:
        by_priority = self.policy.strategy is Strategy.PRIORITY_FIRST
        if self.policy.window_s <= wanted.window and not by_priority:
            return wanted
        return wanted._replace(window=max(wanted.window, self.policy.window_s), by_priority=by_priority)

    def selected(self) -> list[Session]:
        """The sessions that are in no cohort: whose filters decide. O(filtered subscriptions)."""
        sessions = (subscription.session for index in self._filters for subscription in index)
        return [session for session in dict.fromkeys(sessions) if session not in self._placed]

    def filter(self, filters: Iterable[FilterIndex[Subscription]]) -> None:
        """The filter indexes of these patterns, those that have one."""
        self._filters = () if self.unfiltered else tuple(filters)
        self.forget()
        self._simplify()

    def disband(self, ops: list[Any]) -> None:
        """No event will come this way any more."""
        ops.extend(map(Disband, self.routes))

    def _simplify(self) -> None:
        self.routes = tuple(route for cohorts in self._cohorts.values() for route in cohorts)
        self._held = tuple(route for route in self.routes if route.timing is not None)
        self._at_once = tuple(route for route in self.routes if route.timing is None)
        self.plain = () if self._held or self._filters else self._at_once

    # events ---------------------------------------------------------------------------------------------------------

    def spread(self, publication: Publication, ops: list[Any]) -> bool:
        """Hand one event to all who get it; whether the cache knew them."""
        known = True
        selection = None
        if self._filters:
            selection, known = self._select(publication, ops)
        if publication.priority == Priority.CRITICAL:
            ops.append(Urgent(self.routes, selection, publication))
            return known
        if self._at_once:
            ops.append((self._at_once, publication))
        ops.extend([Hold(route, publication) for route in self._held])
        if selection is not None:
            if selection.lanes:
                ops.append(Select(selection, publication))
            ops.extend([Hold(route, publication) for route in selection.routes])
        return known

    def _select(self, publication: Publication, ops: list[Any]) -> tuple[Selection, bool]:
        classes = [index.class_of(publication) for index in self._filters]
        key: Hashable = classes[0] if len(classes) == 1 else tuple(classes)
        selection = self._hot.get(key) or self._cold.pop(key, None)
        if selection is not None and self._holds(selection, classes):
            if key not in self._hot:
                self._keep(key, selection)
            return selection, True
        wanted: dict[Session, Delivery] = {}
        alone = len(self.patterns) == 1  # no session has another subscription here: looking costs 2 us each
        for index, of_index in zip(self._filters, classes, strict=True):
            for subscription in index.owners(of_index):
                session = subscription.session
                if session not in self._placed and session not in wanted:
                    wanted[session] = (
                        self._under_policy(subscription.delivery) if alone else self._delivery(self._of(session))
                    )
        selection = Selection(wanted, [index.version for index in self._filters], ops)
        if (stale := self._hot.pop(key, None)) is not None:
            self._weight -= stale.size
        self._keep(key, selection)
        return selection, False

    def _holds(self, selection: Selection, classes: list[Any]) -> bool:
        """Whether no subscription that came or went since concerns this class of events."""
        for i, index in enumerate(self._filters):
            if selection.versions[i] != index.version:
                changes = index.changes_since(selection.versions[i])
                if changes is None or any(index.accepts(owner, classes[i]) for owner in changes):
                    return False
                selection.versions[i] = index.version
        return True

    def _keep(self, key: Hashable, selection: Selection) -> None:
        if len(self._hot) >= SELECTIONS or self._weight >= SELECTED:
            self.age()
        self._hot[key] = selection
        self._weight += selection.size

    def age(self) -> None:
        """Forget the selections that were not used since this was called last."""
        self._cold, self._hot, self._weight = self._hot, {}, 0

    def forget(self) -> None:
        """Forget all selections."""
        self._hot, self._cold, self._weight = {}, {}, 0


_restriction = attrgetter("restriction")
