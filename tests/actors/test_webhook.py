"""A webhook whose receiver fails, hangs and comes back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

from actors import webhook
from actors.backoff import BackoffPolicy
from actors.breaker import BreakerPolicy, BreakerState
from actors.webhook import Webhook, WebhookPolicy
from tests.webhook_receiver import Receiver

DEADLINE = 30.0
SECRET = "s3cr3t-path"
POLICY = WebhookPolicy(
    timeout=0.2,
    backoff=BackoffPolicy(first_s=0.001, cap_s=0.002),
    breaker=BreakerPolicy(failures=3, successes=1, open_s=0.05, open_max_s=0.05),
)
Eventually = Callable[..., Awaitable[None]]


def run(scenario: Callable[[Receiver, Webhook, list[int]], Awaitable[None]], policy: WebhookPolicy = POLICY) -> None:
    async def main() -> None:
        done: list[int] = []

        async def is_done(number: int) -> None:
            done.append(number)

        async with Receiver() as receiver:
            hook = Webhook("ops", f"{receiver.url}/{SECRET}", {"X-Key": SECRET}, policy)
            task = asyncio.create_task(hook.run(is_done))
            await asyncio.sleep(0)
            try:
                await scenario(receiver, hook, done)
            finally:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    asyncio.run(main())


def test_what_fails_and_hangs_is_sent_again_in_order(eventually: Eventually, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def scenario(receiver: Receiver, hook: Webhook, done: list[int]) -> None:
        receiver.answers += [503, "hang", 302, "garbage", "close"]
        for number in range(1, 4):
            assert hook.put(number, b'{"n": %d}' % number) is None
        await eventually(lambda: receiver.attempts >= 1 and hook.condition.reason is not None, DEADLINE)
        assert "webhook ops: " in str(hook.condition.reason)
        await eventually(lambda: done == [1, 2, 3], DEADLINE)
        assert [body["n"] for body in receiver.taken] == [1, 2, 3]
        assert receiver.headers[-1]["x-key"] == SECRET
        assert (hook.sent, hook.failed, hook.dropped) == (3, 5, 0)
        assert hook.breaker.opens >= 1
        assert hook.condition.reason is None

    run(scenario)
    events = [record.getMessage() for record in caplog.records]
    assert events.count("webhook_failed") == 5
    assert events.count("webhook_sent") == 3
    assert "webhook_breaker" in events
    assert SECRET not in "".join(str(vars(record)) for record in caplog.records)


def test_while_the_breaker_is_open_nobody_is_asked(eventually: Eventually) -> None:
    policy = POLICY._replace(breaker=BreakerPolicy(failures=3, successes=1, open_s=600.0, open_max_s=600.0))

    async def scenario(receiver: Receiver, hook: Webhook, done: list[int]) -> None:
        receiver.answers += [500] * 100
        hook.put(1, b"{}")
        await eventually(lambda: hook.breaker.state is BreakerState.OPEN, DEADLINE)
        await eventually(lambda: (hook.condition.retry_in or 0) > 500, DEADLINE)
        assert receiver.attempts == 3
        assert hook.condition.reason == "webhook ops: HTTP 500"

    run(scenario, policy)


def test_an_open_breaker_holds_in_the_next_life_too(eventually: Eventually) -> None:
    policy = POLICY._replace(breaker=BreakerPolicy(failures=3, successes=1, open_s=0.2, open_max_s=0.2))

    async def main() -> None:
        done: list[int] = []

        async def is_done(number: int) -> None:
            done.append(number)

        async with Receiver() as receiver:
            receiver.answers += [500] * 3
            hook = Webhook("ops", receiver.url, None, policy)
            for number in (1, 2):
                task = asyncio.create_task(hook.run(is_done))
                await asyncio.sleep(0)
                hook.put(number, b"{}")
                await eventually(lambda: hook.breaker.opens == 1, DEADLINE)
                if number == 2:
                    await eventually(lambda: done == [2], DEADLINE)
                task.cancel()
                await asyncio.wait({task})
            assert receiver.attempts == 4
            assert receiver.at[3] - receiver.at[2] >= 0.15, "it was left alone"

    asyncio.run(main())


def test_what_the_receiver_will_never_take_and_what_is_too_old_is_given_up(eventually: Eventually) -> None:
    async def scenario(receiver: Receiver, hook: Webhook, done: list[int]) -> None:
        receiver.answers += [422, 503]
        for number in (1, 2, 3):
            hook.put(number, b'{"n": %d}' % number)
        await eventually(lambda: done == [1, 2, 3], DEADLINE)
        assert [body["n"] for body in receiver.taken] == [3]
        assert hook.dropped == 2

    run(scenario, POLICY._replace(too_old=0.0, breaker=BreakerPolicy(failures=9)))


def test_what_waits_is_bounded_and_the_oldest_that_is_not_on_its_way_goes(
    eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook, "ROOM", 3)

    async def scenario(receiver: Receiver, hook: Webhook, done: list[int]) -> None:
        receiver.answers.append("hang")
        hook.put(1, b'{"n": 1}')
        await eventually(lambda: receiver.attempts == 1, DEADLINE)
        assert [hook.put(number, b'{"n": %d}' % number) for number in (2, 3, 4, 5)] == [None, None, 2, 3]
        await eventually(lambda: done == [1, 4, 5], DEADLINE)
        assert [body["n"] for body in receiver.taken] == [1, 4, 5]

    run(scenario)


def test_nobody_there(eventually: Eventually) -> None:
    async def scenario(receiver: Receiver, hook: Webhook, done: list[int]) -> None:
        receiver.server.close()
        hook.put(1, b"{}")
        await eventually(lambda: hook.failed >= 2, DEADLINE)
        assert "Connect call failed" in str(hook.condition.reason) or "refused" in str(hook.condition.reason)

    run(scenario)
