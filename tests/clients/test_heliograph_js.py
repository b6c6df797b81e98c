"""The JavaScript client without an engine: its pure parts against Python's, its behaviour on a socket that the test
has in its hands.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.clients.conftest import JavaScript
from transport.client_messages import Gap
from transport.client_positions import Positions
from transport.codes import Priority
from transport.fields import lookup
from transport.filters import Filter
from transport.messages import Publication
from transport.topics import matches, topic

FEW = settings(max_examples=60)
TOPICS = st.sampled_from(("a", "b", "c"))
EPOCHS = st.sampled_from(("e", "e", "e", "f"))
OFFSETS = st.integers(1, 12)
STEPS = st.one_of(
    st.tuples(st.just("admit"), TOPICS, EPOCHS, OFFSETS, st.sampled_from([None, *map(str, Priority)])),
    st.tuples(st.just("start"), TOPICS, EPOCHS, st.integers(0, 12)),
    st.tuples(st.just("skip"), TOPICS, EPOCHS, OFFSETS, OFFSETS, st.sampled_from(("slow", "epoch_changed"))),
    st.tuples(st.just("settled"), TOPICS),
    st.tuples(st.just("reconnected")),
)
PLAY = """((holes, whole, capacity, steps) => {
  const positions = new Positions(holes, whole, capacity);
  return steps.map(([name, topic, epoch, one, two, three]) => {
    switch (name) {
      case "admit": return positions.admit({ topic, epoch, offset: one, priority: two ?? undefined });
      case "start": return positions.start(topic, epoch, one);
      case "skip": return positions.skip({ topic, epoch, from: one, to: two, reason: three });
      case "settled": return positions.settled(topic);
      default: return positions.reconnected() ?? null;
    }
  });
})"""


def plain(value: Any) -> Any:
    """As JSON has it."""
    return json.loads(msgspec.json.encode(value))


def wire(gap: Gap | None) -> Any:
    if gap is None:
        return None
    return {"topic": gap.topic, "epoch": gap.epoch, "from": gap.first, "to": gap.last, "reason": gap.reason}


def play(positions: Positions, step: Any) -> Any:
    match step:
        case ("admit", name, epoch, offset, priority):
            new, gap = positions.admit(name, epoch, offset, None if priority is None else Priority(priority))
            return [new, wire(gap)]
        case ("start", name, epoch, offset):
            return wire(positions.start(name, epoch, offset))
        case ("skip", name, epoch, first, last, reason):
            return [wire(gap) for gap in positions.skip(Gap(name, epoch, first, last, reason))]
        case ("settled", name):
            return plain(positions.settled(name))
        case _:
            positions.reconnected()
            return None


@FEW
@given(
    holes=st.booleans(), whole=st.booleans(), capacity=st.sampled_from((1, 2, 100)), runs=st.lists(STEPS, max_size=40)
)
def test_positions_are_pythons(js: JavaScript, holes: bool, whole: bool, capacity: int, runs: list[Any]) -> None:
    positions = Positions(holes=holes, whole=whole, capacity=capacity)
    expected = [play(positions, step) for step in runs]
    assert js(f"{PLAY}({json.dumps(holes)}, {json.dumps(whole)}, {capacity}, {json.dumps(runs)})") == expected


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.sampled_from((0.5, 1.0, "", "a", "é", "\uffff", "\U0001f600", "1"))
)
BOUNDS = st.one_of(st.integers(-3, 3), st.sampled_from(("", "a", "\uffff", "\U0001f600")))
NAMES = st.sampled_from(("x", "y", "x.y", "@type", "@key", "__proto__", "length"))
OPERATORS = st.one_of(
    st.fixed_dictionaries({}, optional={"exists": st.booleans(), "eq": SCALARS, "not": SCALARS}).filter(bool),
    st.dictionaries(st.sampled_from(("gt", "gte", "lt", "lte")), st.integers(-3, 3), min_size=1),
    st.fixed_dictionaries({"gte": BOUNDS}),
    st.fixed_dictionaries({"lt": BOUNDS}),
    st.fixed_dictionaries({"in": st.lists(SCALARS, min_size=1, max_size=3)}),
    st.fixed_dictionaries({"not": st.lists(SCALARS, min_size=1, max_size=3)}),
)
CLAUSES = st.dictionaries(
    NAMES, st.one_of(SCALARS, st.lists(SCALARS, min_size=1, max_size=3), OPERATORS), min_size=1, max_size=3
)
WHERE = st.one_of(CLAUSES, st.lists(CLAUSES, min_size=1, max_size=3))
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("xy"), inner, max_size=2)
)
DATA = st.one_of(VALUES, st.dictionaries(st.sampled_from(("x", "y", "length")), VALUES, max_size=3))


@FEW
@given(where=WHERE, events=st.lists(st.tuples(DATA, st.sampled_from((None, "a", "1"))), min_size=1, max_size=20))
def test_filters_accept_what_pythons_accept(js: JavaScript, where: Any, events: list[tuple[Any, str | None]]) -> None:
    found = Filter.parse(where)
    publications = [Publication("t", "e", 1, 1.0, "a", msgspec.json.encode(data), key) for data, key in events]
    expected = [found.holds(lookup(publication)) for publication in publications]
    sent = [{"type": "a", "data": data} | ({} if key is None else {"key": key}) for data, key in events]
    text = json.dumps(json.dumps([where, sent]))  # a literal's `__proto__` would be no field
    assert js(f"(([where, sent]) => sent.map((event) => holds(where, event)))(JSON.parse({text}))") == expected


TOKENS = st.sampled_from(("a", "b", "system", "user"))


@FEW
@given(
    patterns=st.lists(st.lists(TOKENS | st.just("*"), min_size=1, max_size=3), min_size=5, max_size=20),
    rest=st.booleans(),
    names=st.lists(st.lists(TOKENS, min_size=1, max_size=4), min_size=5, max_size=20),
)
def test_patterns_match_as_pythons(
    js: JavaScript, patterns: list[list[str]], rest: bool, names: list[list[str]]
) -> None:
    wanted = [".".join([*tokens, ">"] if rest else tokens) for tokens in patterns] + [">"]
    topics = [".".join(tokens) for tokens in names]
    expected = [[matches(pattern, name) for name in topics] for pattern in wanted]
    script = f"{json.dumps(wanted)}.map((pattern) => {json.dumps(topics)}.map((name) => matches(pattern, name)))"
    assert js(script) == expected


@FEW
@given(
    tokens=st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8), min_size=1, max_size=4)
)
def test_topics_are_escaped_as_pythons(js: JavaScript, tokens: list[str]) -> None:
    joined = js(f"topic(...{json.dumps(tokens)})")
    if len(joined) <= 255:
        assert joined == topic(*tokens)


# Connections ----------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _at_once(js: JavaScript) -> None:
    js("Math.random = () => 0; undefined")  # no waiting between attempts


def test_what_was_asked_is_asked_again_where_that_is_harmless(js: JavaScript) -> None:
    first, second, lost = js.run("""
      const { client, first } = await openFake();
      const keyed = client.publish("a", { n: 1 }, { idempotencyKey: "k" });
      const plain = outcome(client.publish("a", 2));
      const called = outcome(client.call("a", "m"));
      const read = client.snapshot("a");
      const sent = first.sent.map(({ op, idempotency_key: key }) => [op, key ?? null]);
      first.end(1006);
      const next = await socket(2);
      next.welcome();
      await until(() => next.sent.length === 2);
      const again = next.sent.map(({ op, data, idempotency_key: key }) => [op, data ?? null, key ?? null]);
      next.answer("publish", { epoch: "e", offset: 3 });
      next.answer("snapshot", { events: [] });
      const results = [await keyed, await read, await plain, await called];
      client.close();
      return [sent, again, results];
    """)
    assert first == [["publish", "k"], ["publish", None], ["call", None], ["snapshot", None]]
    assert second == [["publish", {"n": 1}, "k"], ["snapshot", None, None]]
    assert lost[:2] == [{"epoch": "e", "offset": 3}, []]
    for unknown in lost[2:]:
        assert unknown["name"] == "ConnectionLost" and "outcome unknown" in unknown["message"]


def test_an_idempotent_publish_insists_while_the_engine_is_unavailable(js: JavaScript) -> None:
    result = js.run("""
      const { client, first } = await openFake();
      const keyed = client.publish("a", 1, { idempotencyKey: "k" });
      first.refuse("publish", "unavailable");
      await until(() => first.of("publish").length === 2);
      first.answer("publish", { epoch: "e", offset: 1 });
      const plain = outcome(client.publish("a", 1));
      first.refuse("publish", "unavailable");
      const results = [await keyed, await plain];
      client.close();
      return results;
    """)
    assert result[0] == {"epoch": "e", "offset": 1} and result[1]["code"] == "unavailable"


def test_history_goes_on_after_an_event_that_is_there(js: JavaScript) -> None:
    asked = js.run("""
      const { client, first } = await openFake();
      const waiting = outcome(client.history("a", { since: event("a", 5) }));
      const { since } = first.of("history")[0];
      client.close();
      await waiting;
      return since;
    """)
    assert asked == {"epoch": "e", "offset": 5}, "the engine refuses other fields"


@pytest.mark.parametrize(("code", "error"), [(1008, "forbidden"), (4003, "forbidden"), (4001, "unauthorized")])
def test_it_stays_away_where_it_is_told_to(js: JavaScript, code: int, error: str) -> None:
    result = js.run(f"""
      const {{ client, errors, first }} = await openFake({{ token: "t" }});
      const waiting = outcome(client.history("a"));
      first.end({code}, {{ reason: "kicked" }});
      return [client.state, errors.map((error) => error.code), (await waiting).code, FakeSocket.all.length,
        (await outcome(client.publish("a", 1))).code];
    """)
    assert result == ["closed", [error], error, 1, error]


@pytest.mark.parametrize("code", [1001, 1006, 1011, 1012, 1013, 4008, 4009])
def test_it_comes_back_after_other_ends(js: JavaScript, code: int) -> None:
    states = js.run(f"""
      const {{ client, states, first }} = await openFake();
      first.end({code});
      (await socket(2)).welcome();
      client.close();
      return states;
    """)
    assert states == ["connecting", "open", "waiting", "connecting", "open", "closed"]


def test_between_attempts_it_waits_longer_each_time_and_first_as_the_engine_says(js: JavaScript) -> None:
    delays = js.run("""
      const real = setTimeout;
      const delays = [];
      globalThis.setTimeout = (action, ms) => {
        if (ms < 10_000 && ms > 1) delays.push(ms);
        return real(action, ms < 10_000 ? 0 : ms);
      };
      Math.random = () => 0.25;
      try {
        const { client, first } = await openFake({}, { ping_interval: 10_000 });
        first.end(1012, { reason: "drain", reconnect_in: 1.6 });
        for (let n = 2; n < 11; n++) (await socket(n)).end(1006);
        await socket(11);
        client.close();
      } finally {
        globalThis.setTimeout = real;
      }
      return delays;
    """)
    bounds = [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000, 30_000]
    assert delays == [400, *(bound / 4 for bound in bounds)]


def test_silence_is_asked_about_and_ends_the_connection(js: JavaScript) -> None:
    alive, pings, closed = js.run("""
      const { client, first, errors } = await openFake({}, { ping_interval: 0.02 });
      for (let n = 1; n <= 3; n++) {
        await until(() => first.of("ping").length >= n);
        first.answer("ping", { ts: 1 });
      }
      const alive = FakeSocket.all.length;
      await socket(2);
      client.close();
      return [alive, first.of("ping").length, first.closed];
    """)
    assert (alive, pings >= 4, closed) == (1, True, 1000)


def test_at_most_a_thousand_requests_wait(js: JavaScript) -> None:
    last, sent = js.run("""
      const { client } = fakeClient();
      const waiting = Array.from({ length: 1_001 }, () => outcome(client.publish("a", 1)));
      const last = await waiting.at(-1);
      const first = await socket(1);
      first.welcome();
      const sent = first.sent.length;
      client.close();
      await Promise.all(waiting);
      return [last.code, sent];
    """)
    assert (last, sent) == ("limit_exceeded", 1_000)


def test_a_request_is_not_waited_for_longer_than_its_time(js: JavaScript) -> None:
    unsent, unanswered = js.run("""
      const { client } = fakeClient({ requestTimeout: 5 });
      const unsent = await outcome(client.snapshot("a"));
      (await socket(1)).welcome();
      const unanswered = await outcome(client.snapshot("a"));
      client.close();
      return [unsent.message, unanswered.message];
    """)
    assert "no connection" in unsent and "outcome unknown" in unanswered


def test_what_callbacks_throw_harms_nobody(js: JavaScript) -> None:
    seen, errors = js.run("""
      const { client, errors, first } = await openFake();
      const seen = [];
      client.subscribe("a", () => { throw new Error("mine"); });
      client.subscribe("a", async () => { throw new Error("later"); });
      client.subscribe("a", ({ offset }) => seen.push(offset));
      client.on("error", () => { throw new Error("worse"); });
      const log = console.error;
      console.error = () => {};
      first.of("subscribe").forEach(({ id }) => first.say({ op: "ok", id, topics: ["a"] }));
      first.say(event("a", 1), event("a", 2));
      await until(() => errors.length === 4);
      console.error = log;
      client.close();
      return [seen, errors.map((error) => error.message)];
    """)
    assert seen == [1, 2] and sorted(errors) == ["later", "later", "mine", "mine"]


def test_what_it_does_not_understand_is_passed_over(js: JavaScript) -> None:
    seen, errors = js.run("""
      const { client, errors, first } = await openFake();
      const seen = [];
      client.subscribe("a", ({ offset }) => seen.push(offset));
      first.answer("subscribe", { topics: ["a"], news: 1 });
      first.onmessage({ data: "{" });
      first.say({ op: "novelty" }, { op: "ok", id: 999 }, event("b", 7), event("a", 1));
      client.close();
      return [seen, errors.length];
    """)
    assert (seen, errors) == ([1], 1)


def test_subscriptions_share_and_the_last_one_unsubscribes(js: JavaScript) -> None:
    seen, conflict, gone = js.run("""
      const { client, first } = await openFake();
      const seen = { one: [], two: [], wide: [] };
      const one = client.subscribe("a.x", ({ offset }) => seen.one.push(offset));
      first.answer("subscribe", { topics: ["a.x"] });
      const two = client.subscribe("a.x", ({ offset }) => seen.two.push(offset));
      first.answer("subscribe", { topics: ["a.x"] });
      client.subscribe("a.*", ({ offset }) => seen.wide.push(offset), { where: { n: 2 } });
      first.answer("subscribe", { topics: ["a.*"] });
      let conflict;
      try { client.subscribe("a.x", () => {}, { conflate: true }); } catch (error) { conflict = error.code; }
      first.say(event("a.x", 1, { data: { n: 1 } }), event("a.x", 2, { data: { n: 2 } }), event("a.x", 2));
      one.close();
      const kept = first.of("unsubscribe").length;
      first.say(event("a.x", 3));
      two.close();
      const gone = [kept, first.of("unsubscribe").map(({ topics }) => topics)];
      client.close();
      return [seen, conflict, gone];
    """)
    assert seen == {"one": [1, 2], "two": [1, 2, 3], "wide": [2]}
    assert conflict == "conflict" and gone == [0, [["a.x"]]]


def test_it_resumes_by_offsets_or_by_position_and_tells_what_is_lost(js: JavaScript) -> None:
    asked, seen, gaps = js.run("""
      const { client, first } = await openFake();
      const seen = [];
      const gaps = [];
      const onGap = ({ from, to, reason }) => gaps.push([from, to, reason]);
      client.subscribe("a", ({ offset }) => seen.push(offset), { onGap });
      first.answer("subscribe", { positions: { a: { epoch: "e", offset: 4 } }, position: "l:10" });
      client.subscribe("b.*", ({ offset }) => seen.push(-offset), { onGap });
      first.answer("subscribe", { position: "l:10" });
      first.say(event("a", 5), event("b.x", 1), { op: "position", position: "l:12" });
      first.end(1006);
      const second = await socket(2);
      second.welcome();
      const asked = second.of("subscribe").map(({ topics, since }) => [topics, since]);
      const [exact, wild] = second.of("subscribe").map(({ id }) => id);
      second.say(
        event("b.x", 3), // for another subscription, before this one goes on: it comes again
        { op: "ok", id: exact, recovered: true },
        event("a", 6),
        { op: "ok", id: wild, recovered: false },
        { op: "gap", topic: "b.x", epoch: "e", from: 2, to: 2, reason: "history_expired" },
        event("b.x", 1), event("b.x", 3), event("b.x", 3),
      );
      client.close();
      return [asked, seen, gaps];
    """)
    assert asked == [[["a"], {"a": {"epoch": "e", "offset": 5}}], [["b.*"], "l:12"]]
    assert seen == [5, -1, 6, -3]
    assert gaps == [[2, 2, "history_expired"]]


def test_where_nothing_can_be_resumed_the_hole_is_told(js: JavaScript) -> None:
    since, gaps, missed, failed = js.run("""
      const { client, first, errors } = await openFake();
      const gaps = [];
      const sub = client.subscribe("a", () => {}, { onGap: ({ from, to, reason }) => gaps.push([from, to, reason]) });
      first.answer("subscribe", { positions: { a: { epoch: "e", offset: 1 } } });
      first.end(1006);
      const second = await socket(2);
      second.welcome();
      second.refuse("subscribe", "unsupported", "since");
      const since = second.of("subscribe").map((request) => request.since !== undefined);
      second.answer("subscribe", { positions: { a: { epoch: "e", offset: 9 } } });
      const refused = client.subscribe("b", () => {});
      second.refuse("subscribe", "rate_limited");
      await until(() => second.of("subscribe").length === 4);
      second.refuse("subscribe", "forbidden", "topics[0]");
      const failed = [(await outcome(refused.ready)).code, refused.closed, errors.map(({ code }) => code)];
      const { missed } = sub;
      client.close();
      return [since, gaps, missed, failed];
    """)
    assert (since, gaps, missed) == ([True, False], [[2, 9, "disconnected"]], 8)
    assert failed == ["forbidden", True, ["forbidden"]]


def test_batches_skipped_events_and_what_an_operator_ends(js: JavaScript) -> None:
    seen, skipped, ended = js.run("""
      const { client, first, errors } = await openFake();
      const seen = [];
      const options = { batch: true, maxRate: 2, window: 0.5 };
      const sub = client.subscribe(["a", "b"], ({ offset }) => seen.push(offset), options);
      const { topics, batch, max_rate: rate, window } = first.of("subscribe")[0];
      first.answer("subscribe");
      first.say({ op: "events", events: [event("a", 1), event("b", 2)] }, { op: "skipped", topic: "a", count: 3 });
      first.say({ op: "unsubscribed", topics: ["b"] });
      const left = sub.topics;
      first.say(event("a", 2), event("b", 3), { op: "unsubscribed", topics: [] }, event("b", 4));
      client.close();
      return [[topics, batch, rate, window, seen], sub.skipped, [left, sub.closed, errors.map(({ code }) => code)]];
    """)
    assert seen == [["a", "b"], True, 2, 0.5, [1, 2, 3]]
    assert skipped == 3 and ended == [["b"], True, ["forbidden"]]


def test_tokens_are_asked_for_when_they_are_needed(js: JavaScript) -> None:
    shown, ends = js.run("""
      let count = 0;
      const { client, errors } = fakeClient({ token: async () => `t${++count}` });
      const shown = [];
      const admit = async (number, refused, expires = 1e9) => {
        const socket_ = await socket(number);
        socket_.welcome({ auth_within: 5 });
        shown.push(socket_.of("auth")[0].token);
        if (!refused) return socket_.answer("auth", { user: "u", expires }), socket_;
        socket_.refuse("auth", "unauthorized");
        await new Promise((resolve) => setTimeout(resolve));
        socket_.end(4001, { reason: "unauthorized" });
      };
      (await admit(1)).end(4001, { reason: "token_expired", reconnect: false });
      const second = await admit(2);
      second.end(1006);
      await admit(3, true);
      await admit(4, true);
      await until(() => client.state === "closed");
      return [shown, [errors.map(({ code, message }) => [code, message])]];
    """)
    assert shown == ["t1", "t2", "t3", "t4"]
    assert ends == [[["unauthorized", "the engine closed the connection: auth refused"]]]


def test_another_token_is_sent_before_one_ends_and_a_fetch_that_fails_is_repeated(js: JavaScript) -> None:
    tokens, errors, sockets = js.run("""
      let count = 0;
      const token = () => {
        if (++count === 2) throw new Error("away");
        return `t${count}`;
      };
      const { client, errors } = fakeClient({ token });
      const first = await socket(1);
      first.welcome({ auth_within: 5 });
      first.answer("auth", { user: "u", expires: 100.001 });
      await until(() => first.of("ping").length === 1);
      first.answer("ping", { ts: 100 });
      await until(() => first.of("ping").length === 2); // after the one that failed
      first.answer("ping", { ts: 100 });
      await until(() => first.of("auth").length === 2);
      const tokens = first.of("auth").map(({ token }) => token);
      client.close();
      return [tokens, errors.map(({ message }) => message), FakeSocket.all.length];
    """)
    assert (tokens, errors, sockets) == (["t1", "t3"], ["away"], 1)


def test_without_a_token_where_one_is_wanted_it_ends(js: JavaScript) -> None:
    state, codes = js.run("""
      const { client, errors, first } = await openFake({}, { auth_within: 5 });
      return [client.state, errors.map(({ code }) => code)];
    """)
    assert (state, codes) == ("closed", ["unauthorized"])


def test_calls_are_answered_and_served_again_after_a_reconnect(js: JavaScript) -> None:
    served, answers, reported, again, after = js.run("""
      const { client, errors, first } = await openFake();
      const served = client.serve("job", {
        cancel: async (params, caller) => ({ params, caller }),
        nothing: () => undefined,
        refuse: () => { throw new RequestError("conflict", "not now", "state"); },
        fail: () => { throw new Error("a secret"); },
      });
      const { topic: name, methods } = first.of("serve")[0];
      first.answer("serve");
      await served.ready;
      const call = (method) => first.say({ op: "call", call: method, topic: "job", method, params: [1], user: "u" });
      ["cancel", "nothing", "refuse", "fail", "unknown"].forEach(call);
      await until(() => first.of("result").length === 5);
      const answers = Object.fromEntries(first.of("result").map(({ call, result, error }) => [call, error ?? result]));
      first.of("result").forEach(({ id }) => first.say({ op: "ok", id }));
      first.end(1006);
      const second = await socket(2);
      second.welcome();
      const again = second.of("serve").map(({ methods }) => methods);
      served.close();
      const after = second.of("serve").map(({ methods }) => methods.length);
      client.close();
      return [[name, methods], answers, errors.map(({ message }) => message), again, after];
    """)
    methods = ["cancel", "nothing", "refuse", "fail"]
    assert served == ["job", methods] and again == [methods] and after == [4, 0]
    assert answers["cancel"] == {"params": [1], "caller": "u"} and answers["nothing"] is None
    assert answers["refuse"] == {"code": "conflict", "message": "not now", "field": "state"}
    assert answers["fail"]["code"] == "internal" and "secret" not in answers["fail"]["message"]
    assert answers["unknown"]["code"] == "not_found" and reported == ["a secret"]


def test_what_cannot_be_sent_is_refused_and_harms_nothing_else(js: JavaScript) -> None:
    state, early, refused, sent, errors = js.run("""
      const { client, errors } = fakeClient();
      const early = outcome(client.call("a", "m", 1n)); // no JSON, and no connection yet
      const first = await socket(1);
      first.welcome({ limits: { message_bytes: 200 } });
      const bytes = (message) => new TextEncoder().encode(JSON.stringify(message)).length;
      outcome(client.publish("a", ""));
      const room = 200 - bytes(first.of("publish")[0]);
      const keyed = { idempotencyKey: "k" }; // would be repeated, and end each connection
      const refused = [await outcome(client.publish("a", "é".repeat(room), keyed))];
      refused.push(await outcome(client.call("a", "m", "é".repeat(room))));
      outcome(client.publish("a", "é".repeat(room / 2)));
      refused.push(await outcome(client.subscribe("é".repeat(room), () => {}).ready));
      const sent = first.sent.map((message) => [message.op, bytes(message) <= 200]);
      const results = [client.state, await early, refused, sent, errors.map(({ code }) => code)];
      client.close();
      return results;
    """)
    assert (state, early["code"]) == ("open", "bad_request")
    assert [each["code"] for each in refused] == ["limit_exceeded"] * 3
    assert sent == [["publish", True], ["publish", True]] and errors == ["limit_exceeded"]


def test_who_calls_learns_of_an_answer_that_cannot_be_sent(js: JavaScript) -> None:
    answers, reported = js.run("""
      const { client, errors, first } = await openFake({}, { limits: { message_bytes: 300 } });
      client.serve("job", {
        long: () => "x".repeat(300),
        big: () => 1n,
        odd: () => { throw new RequestError("my_own", "not a code of the protocol"); },
      });
      for (const [i, method] of ["long", "big", "odd"].entries()) {
        first.say({ op: "call", call: method, topic: "job", method, params: {} });
        await until(() => first.of("result").length === i + 1);
      }
      first.refuse("result", "bad_request", "code");
      const answers = first.of("result").map(({ call, error }) => [call, error.code]);
      first.refuse("result", "unavailable"); // the hub has gone, and has told the caller
      client.close();
      return [answers, errors.map(({ code }) => code)];
    """)
    assert answers == [["long", "limit_exceeded"], ["big", "internal"], ["odd", "my_own"], ["odd", "internal"]]
    assert reported == ["limit_exceeded", "bad_request", "bad_request", "unavailable"]


def test_a_message_that_lacks_something_is_reported_and_the_next_is_read(js: JavaScript) -> None:
    reported, seen = js.run("""
      const { client, errors, first } = await openFake();
      const seen = [];
      client.subscribe("a", ({ offset }) => seen.push(offset));
      first.answer("subscribe", { topics: ["a"], positions: {} });
      first.say(null, 7, {}, { op: "events" }, { op: "event" }, { op: "gap" }, { op: "subscribed" }, event("a", 1));
      client.close();
      return [errors.length, seen];
    """)
    assert (reported, seen) == (4, [1])


def test_who_is_told_of_a_gap_may_close_the_subscription(js: JavaScript) -> None:
    told = js.run("""
      const { client, first } = await openFake();
      const told = [];
      const subs = [1, 2].map(() => client.subscribe("a", () => {}, {
        onGap: ({ from }) => { told.push(from); subs.forEach((sub) => sub.close()); },
      }));
      first.sent.forEach(({ id }) => first.say({ op: "ok", id, topics: ["a"], positions: {} }));
      first.say({ op: "gap", topic: "a", epoch: "e", from: 3, to: 5, reason: "slow" });
      client.close();
      return told;
    """)
    assert told == [3]


@pytest.mark.parametrize(
    ("script", "code", "field"),
    [
        ("new Heliograph('ftp://engine', { WebSocket: FakeSocket })", "bad_request", "url"),
        ("new Heliograph('/ws', { WebSocket: FakeSocket })", "bad_request", "url"),
        ("new Heliograph('ws://engine', { WebSocket: null })", "unsupported", "WebSocket"),
        ("fakeClient().client.subscribe([], () => {})", "bad_request", "topics"),
        ("fakeClient().client.subscribe('a', () => {}, { maxrate: 1 })", "bad_request", "maxrate"),
        ("fakeClient().client.publish('a', undefined)", "bad_request", "data"),
        ("fakeClient().client.on('event', () => {})", "bad_request", "name"),
        ("topic()", "invalid_topic", "topic"),
    ],
)
def test_mistakes_are_named(js: JavaScript, script: str, code: str, field: str) -> None:
    told = js.run(f"try {{ await ({script}); }} catch (error) {{ return [error.name, error.code, error.field]; }}")
    assert told == ["RequestError", code, field]


def test_a_page_that_may_have_no_such_socket_is_told(js: JavaScript) -> None:
    state, errors = js.run("""
      class Forbidden { constructor() { throw new Error("mixed content"); } }
      const { client, errors } = fakeClient({ WebSocket: Forbidden });
      await until(() => client.state === "closed");
      return [client.state, errors.map(({ code, message }) => [code, message])];
    """)
    assert (state, errors) == ("closed", [["bad_request", "ws://engine/ws: mixed content"]])


def test_a_listener_may_close_the_client(js: JavaScript) -> None:
    sockets, states = js.run("""
      const { client, states } = fakeClient();
      client.on("state", (state) => state === "connecting" && client.close());
      await until(() => client.state === "closed");
      await new Promise((resolve) => setTimeout(resolve));
      return [FakeSocket.all.length, states];
    """)
    assert (sockets, states) == (0, ["connecting", "closed"])


def test_after_its_end_nothing_is_called_and_everything_rejects(js: JavaScript) -> None:
    seen, outcomes, closed = js.run("""
      const { client, first } = await openFake();
      const seen = [];
      const sub = client.subscribe("a", () => seen.push(1));
      const waiting = outcome(client.snapshot("a"));
      const ready = outcome(sub.ready);
      const { onmessage } = first;
      client.close();
      client.close();
      onmessage({ data: JSON.stringify(event("a", 1)) });
      first.say(event("a", 1));
      const late = outcome((async () => client.subscribe("a", () => {}))());
      return [seen, [(await waiting).name, (await ready).name, (await late).name], [first.closed, sub.closed]];
    """)
    assert (seen, outcomes, closed) == ([], ["ConnectionLost"] * 3, [1000, True])
