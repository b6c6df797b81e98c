"""Tokens and permissions at a real engine: who is let in, what they may do, and when it ends."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from heliograph import Client, RequestError
from tests.integration.harness import EngineProcess, RawClient

Start = Callable[..., EngineProcess]
Eventually = Callable[..., Awaitable[None]]

SECRET = "a secret that only this test's engine knows"
OTHER = "another secret, with which it was replaced then"
AUTH = f'[auth]\nsecret = "{SECRET}"\n'


def mint(user: str = "alice", ttl: float = 60.0, key: Any = SECRET, algorithm: str = "HS256", **more: Any) -> str:
    claim = {name: more.pop(name) for name in ("subscribe", "publish", "call", "presence") if name in more}
    claims = {"sub": user, "exp": time.time() + ttl, "heliograph": claim, **more}
    return jwt.encode({name: value for name, value in claims.items() if value is not None}, key, algorithm)


async def sent_away(client: RawClient, eventually: Eventually, reason: str = "unauthorized") -> None:
    """It was told why, in a way that browsers can read, and not to come back."""
    await eventually(lambda: client.closed is not None, deadline=20)
    bye = client.messages[-1]
    assert (bye["op"], bye["code"], bye["reason"], bye["reconnect"]) == ("bye", 4001, reason, False)
    assert client.closed == 4001


async def forbidden(client: RawClient, op: str, field: str, **fields: Any) -> None:
    answer = await client.request(op, **fields)
    assert (answer["op"], answer.get("code"), answer.get("field")) == ("error", "forbidden", field), (fields, answer)


def test_a_token_opens_what_it_names_and_nothing_else(engine_process: Start, eventually: Eventually) -> None:
    engine = engine_process(AUTH + '[topics."price.>"]\npresence = true\n')

    async def scenario() -> None:
        token = mint(subscribe=["price.EUR_USD", "chat.*"], publish=["chat.*", "price.>", ">"])
        async with RawClient(engine.url, token) as alice, RawClient(engine.url) as browser:
            await eventually(lambda: alice.of("subscribed"))
            welcome = alice.messages[0]
            assert welcome["user"] == "alice"
            assert 50 < welcome["expires"] - time.time() <= 60
            assert alice.of("subscribed")[0]["topics"] == ["user.alice"]

            # Escapes: each asks for more than the token names.
            for wide in (">", "*", "price.*", "price.>", "*.EUR_USD", "price.*.>", "chat.>", "price.EUR%5FUSD"):
                await forbidden(alice, "subscribe", "topics[1]", topics=["chat.a", wide])
                await forbidden(alice, "snapshot", "topics[0]", topics=[wide])
                await forbidden(alice, "subscribe", "topics[0]", topics=[wide], group="g")
            for foreign in ("user.bob", "user.*", "user.>", "system.>", "system.metrics", "system.feeds.*"):
                await forbidden(alice, "subscribe", "topics[0]", topics=[foreign])
            for foreign in ("price.GBP_USD", "user.bob", "system.metrics"):
                await forbidden(alice, "history", "topic", topic=foreign)
            for foreign in ("system.metrics", "system", "user.bob", "user.alice"):
                await forbidden(alice, "publish", "topic", topic=foreign, data=1)
            await forbidden(alice, "presence", "topic", topic="price.GBP_USD")
            assert (await alice.request("presence", topic="price.EUR_USD"))["op"] == "ok"
            assert (await alice.request("subscriptions"))["subscriptions"] == ["user.alice"]
            await alice.subscribe("chat.*", "price.EUR_USD", "user.alice.orders")

            # A browser cannot send headers: it is asked who it is first.
            assert browser.messages[0]["auth_within"] == 5.0
            for op, fields in (
                ("subscribe", {"topics": ["a"]}),
                ("publish", {"topic": "a", "data": 1}),
                ("snapshot", {"topics": ["a"]}),
                ("subscriptions", {}),
                ("stats", {}),
                ("presence", {"topic": "a"}),
                ("unsubscribe", {"topics": "*"}),
            ):
                answer = await browser.request(op, **fields)
                assert answer["code"] == "unauthorized", (op, answer)
            assert (await browser.request("ping"))["op"] == "ok"
            answer = await browser.request("auth", token=mint("bob"))
            assert (answer["op"], answer["user"]) == ("ok", "bob")
            await forbidden(browser, "subscribe", "topics[0]", topics=["chat.a"])
            await forbidden(browser, "publish", "topic", topic="chat.a", data=1)
            await eventually(lambda: browser.of("subscribed"))
            assert engine.admin("/api/publish", "POST", {"topic": "user.bob", "data": 7})[0] == 200
            await eventually(lambda: browser.of("event"))
            assert (await alice.request("publish", topic="chat.x", data=1))["op"] == "ok"
            await eventually(lambda: alice.of("event"))
            assert [event["topic"] for event in browser.of("event")] == ["user.bob"]

    asyncio.run(scenario())


def test_what_is_no_good_token_is_told_and_sent_away(engine_process: Start, eventually: Eventually) -> None:
    engine = engine_process(AUTH + "timeout = 1.0\nissuer = 'here'\n")
    bad = {
        "signature": mint(key=OTHER, iss="here"),
        "expired": mint(ttl=-1, iss="here"),
        "issuer": mint(iss="there"),
        "audience": mint(iss="here", aud="somebody"),
        "no exp": mint(iss="here", exp=None),
        "no sub": mint(iss="here", sub=None),
        "unsigned": jwt.encode({"sub": "alice", "exp": time.time() + 60, "iss": "here"}, None, "none"),
        "garbage": "garbage",
        "huge": "a" * 8_193,
    }

    async def scenario() -> None:
        for what, token in bad.items():
            async with RawClient(engine.url, token) as client:
                await sent_away(client, eventually)
                assert [message["op"] for message in client.messages] == ["welcome", "error", "bye"], what
                assert client.messages[1]["code"] == "unauthorized"
            if what != "huge":  # that is no request at all
                async with RawClient(engine.url) as client:
                    answer = await client.request("auth", token=token)
                    assert answer["code"] == "unauthorized", what
                    await sent_away(client, eventually)
        # Who says nothing is sent away in time; who names itself, or puts a token where logs see it, at once.
        async with RawClient(engine.url) as silent:
            await sent_away(silent, eventually)
        good = mint(iss="here")
        for query in ("user=alice", f"token={good}"):
            async with RawClient(f"{engine.url}?{query}") as client:
                await sent_away(client, eventually)
        async with RawClient(f"{engine.url}?user=alice", good) as client:
            await sent_away(client, eventually)
        async with RawClient(engine.url, good) as client:
            assert (await client.request("stats"))["op"] == "ok"
            # A bad one later does no harm, and does no good.
            assert (await client.request("auth", token=bad["signature"]))["code"] == "unauthorized"
            await forbidden(client, "auth", "token", token=mint("bob", iss="here"))
            assert (await client.request("stats"))["op"] == "ok"

    asyncio.run(scenario())
    text = str(engine.log())
    assert "a token was refused" in text
    for token in bad.values():
        assert token not in text
    assert SECRET not in text


def test_public_keys_and_a_token_signed_with_their_text(
    engine_process: Start, eventually: Eventually, tmp_path: Path
) -> None:
    private = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
    pem = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "key.pem").write_bytes(pem)
    engine = engine_process(f'[auth]\npublic_key_file = "{tmp_path}/key.pem"\naudience = "desk"\nquery_token = true\n')

    async def scenario() -> None:
        good = mint(key=private, algorithm="RS256", aud="desk", subscribe=["a"])
        for url, token in ((engine.url, good), (f"{engine.url}?token={good}", None)):
            async with RawClient(url, token) as client:
                await client.subscribe("a")
        for text in (pem, pem.strip()):
            for aud in ("desk", "other"):
                head, body, _ = mint(aud=aud, subscribe=[">"]).split(".")
                signed = hmac.digest(text, f"{head}.{body}".encode(), "sha256")  # PyJWT would refuse to
                forged = f"{head}.{body}.{jwt.utils.base64url_encode(signed).decode()}"
                async with RawClient(engine.url, forged) as client:
                    await sent_away(client, eventually)
        async with RawClient(engine.url, mint(key=private, algorithm="RS256", aud="other")) as client:
            await sent_away(client, eventually)

    asyncio.run(scenario())


def test_a_token_ends_or_is_renewed(engine_process: Start, eventually: Eventually) -> None:
    engine = engine_process(AUTH)

    async def scenario() -> None:
        short = mint(ttl=2.0, subscribe=["a.*", "b", "user.alice"])
        async with RawClient(engine.url, short) as ends, RawClient(engine.url, short) as renewed:
            for client in (ends, renewed):
                await client.subscribe("a.x", "a.*", "b")
                await eventually(lambda client=client: client.of("subscribed"))
            answer = await renewed.request("auth", token=mint(subscribe=["a.x", "c"]))
            assert answer["expires"] > time.time() + 50
            # What it does not allow any more is taken away, and told; what is the user's stays.
            await eventually(lambda: renewed.of("unsubscribed"))
            assert sorted(renewed.of("unsubscribed")[0]["topics"]) == ["a.x", "user.alice"]
            await renewed.subscribe("c")
            await forbidden(renewed, "subscribe", "topics[0]", topics=["b"])
            await sent_away(ends, eventually, "token_expired")
            assert (await renewed.request("ping"))["op"] == "ok"
            for topic in ("a.y", "b", "a.x"):
                assert engine.admin("/api/publish", "POST", {"topic": topic, "data": 1})[0] == 200
            await eventually(lambda: renewed.of("event"))
            assert [event["topic"] for event in renewed.of("event")] == ["a.x"]

    asyncio.run(scenario())


def test_other_keys_by_reload(engine_process: Start, eventually: Eventually, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(SECRET)
    engine = engine_process(f'[auth]\nsecret_file = "{file}"\n', workers=0)

    async def scenario() -> None:
        async with RawClient(engine.url, mint(subscribe=["a"])) as before:
            await before.subscribe("a")
            file.write_text(OTHER)
            status, answer = await asyncio.to_thread(engine.admin, "/api/reload", "POST", {})
            assert (status, answer["needs_restart"]) == (200, []), answer
            async with RawClient(engine.url, mint()) as old, RawClient(engine.url, mint(key=OTHER)) as new:
                await sent_away(old, eventually)
                assert (await new.request("stats"))["op"] == "ok"
            # Who is here keeps what the old key signed, until it ends; to renew it takes the new one.
            assert (await before.request("subscriptions"))["subscriptions"] == ["user.alice", "a"]
            assert (await before.request("auth", token=mint()))["code"] == "unauthorized"
            assert (await before.request("auth", token=mint(key=OTHER)))["op"] == "ok"
            file.write_text("short")
            status, answer = await asyncio.to_thread(engine.admin, "/api/reload", "POST", {})
            assert status == 400
            async with RawClient(engine.url, mint(key=OTHER)) as new:
                assert (await new.request("stats"))["op"] == "ok"

    asyncio.run(scenario())


def test_who_was_here_before_the_first_key_keeps_only_what_its_token_allows(
    engine_process: Start, eventually: Eventually
) -> None:
    engine = engine_process(workers=0)

    async def scenario() -> None:
        async with RawClient(engine.url) as alice, RawClient(f"{engine.url}?user=bob") as bob:
            await eventually(lambda: bob.of("subscribed"))
            for client in (alice, bob):
                await client.subscribe("a", "secret.>")
            Path(engine.runtime_dir).with_name("heliograph.toml").write_text(f"{AUTH}timeout = 30.0\n")
            status, answer = await asyncio.to_thread(engine.admin, "/api/reload", "POST", {})
            assert (status, answer["needs_restart"]) == (200, []), answer
            for client, user in ((alice, "alice"), (bob, "bob")):
                assert (await client.request("subscriptions"))["code"] == "unauthorized"
                assert (await client.request("auth", token=mint(user, subscribe=["a"])))["op"] == "ok"
                await eventually(lambda client=client: client.of("unsubscribed"))
            assert sorted((await alice.request("subscriptions"))["subscriptions"]) == ["a", "user.alice"]
            assert sorted((await bob.request("subscriptions"))["subscriptions"]) == ["a", "user.bob"]

    asyncio.run(scenario())


def test_a_client_renews_its_token_and_gives_up_without_one(engine_process: Start, eventually: Eventually) -> None:
    engine = engine_process(AUTH)
    minted: list[float] = []

    async def current() -> str:
        minted.append(time.time())
        return mint(ttl=3.0, subscribe=["a"], publish=["a"])

    async def scenario() -> None:
        for token in (None, "garbage", mint(key=OTHER)):
            with pytest.raises(RequestError, match=r"unauthorized|token") as caught:
                async with Client(engine.url, token=token):
                    pass
            assert caught.value.code == "unauthorized"
        async with Client(engine.url, token=current) as client, client.subscribe("a") as events:
            session = client.session
            await eventually(lambda: len(minted) >= 3, deadline=20)  # beyond the first one's end
            await client.publish("a", 1)
            assert (await anext(events)).data == 1
            assert client.session == session, "it was never disconnected"
            with pytest.raises(RequestError) as caught:
                await client.publish("b", 1)
            assert (caught.value.code, caught.value.field) == ("forbidden", "topic")
        # One that nobody renews ends; then everything says so.
        async with Client(engine.url, token=mint(ttl=1.0, subscribe=["a"])) as client, client.subscribe("a") as events:
            with pytest.raises(RequestError, match="token_expired"):
                await anext(events)
            with pytest.raises(RequestError) as caught:
                await client.ping()
            assert caught.value.code == "unauthorized"

    asyncio.run(scenario())


FEED = """
[feeds.up]
protocol = "heliograph"
url = "{url}"
{token}
[feeds.up.options]
topics = ["a"]
"""


def test_another_engine_reads_with_a_token(engine_process: Start, eventually: Eventually) -> None:
    up = engine_process(AUTH)
    down = engine_process(FEED.format(url=up.url, token=f'token = "{mint(subscribe=["a"])}"'))
    refused = engine_process(FEED.format(url=up.url, token=f'token = "{mint(key=OTHER)}"'))

    async def scenario() -> None:
        def state(engine: EngineProcess) -> tuple[str, str]:
            feed = engine.admin("/api/feeds")[1]["feeds"]["up"]
            return feed["state"], str(feed["reason"])

        async with RawClient(down.url) as client:
            await client.subscribe("a")
            await eventually(lambda: state(down)[0] == "connected", deadline=20)
            await eventually(lambda: state(refused)[0] == "failed", deadline=20)
            assert "unauthorized" in state(refused)[1]

            def came() -> bool:
                assert up.admin("/api/publish", "POST", {"topic": "a", "data": 1})[0] == 200
                return bool(client.of("event"))

            await eventually(came, deadline=20)

    asyncio.run(scenario())


def test_without_keys_nobody_needs_a_token(engine_process: Start) -> None:
    engine = engine_process()

    async def scenario() -> None:
        async with RawClient(f"{engine.url}?user=alice", "whatever") as client:
            await client.subscribe("a")
            assert (await client.request("auth", token="x"))["code"] == "bad_request"
            assert "auth_within" not in client.messages[0]

    asyncio.run(scenario())


def test_secrets_are_masked() -> None:
    from engine.config import effective_toml, loads

    shown = effective_toml(loads(AUTH))
    assert SECRET not in shown
    assert 'secret = "***"' in shown
