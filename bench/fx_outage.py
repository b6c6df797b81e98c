"""Is a price lost while the FX server's database, or its Redis, is away? The whole server, with its Socket.IO clients.

    python -m bench.fx_outage --database postgres|redis [--seconds 20] [--rate 200] [--clients 20] [--workers 2]

Prices come over Redis at a steady rate, into clients of python-socketio and into PostgreSQL. After a while the one or
the other is killed with ``kill -9`` and started again ``--seconds`` later. In the end each price that Redis has handed
over is in the table exactly once, candles are those of the prices, each client has every price once and in order, and
no client was disconnected; `/health` has named what was away, and nothing else. While Redis is away there are no prices
(that is the publisher's part), and the last ones are still answered. Exits with 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import redis.asyncio
import socketio
from redis.exceptions import RedisError

from bench import report
from bench.postgres_process import PostgresProcess
from bench.redis_process import RedisProcess
from bench.server import ROOT, Server

APPLICATION = ROOT / "examples" / "fx"
sys.path.append(str(APPLICATION))

from fx.candles import of_prices  # noqa: E402  the application is no package of this tree
from fx.pairs import DEFAULT_PAIRS  # noqa: E402
from fx.prices import Price, timestamp  # noqa: E402
from fx.store import LIVE, Candle, PriceEvent  # noqa: E402
from fx.stores import open_store  # noqa: E402

CHANNEL = "price_updates"
WARM_S = 3.0  # of prices before the kill, and after everything is back
WAIT_S = 60.0  # for what must come
LOOK_S = 0.05
APART = timedelta(milliseconds=250)  # times of two prices that follow each other: many candles in little time


class Crowd:
    """Socket.IO clients of all pairs, which keep the numbers of the prices that they got.

    Attributes:
        got: of each client, the times of prices in the order of their coming, by pair.
        closed: disconnections.
        late: the longest way of a price to a client, seconds.
    """

    def __init__(self, url: str, count: int) -> None:
        self._url = url
        self.got: list[dict[str, list[str]]] = [{} for _ in range(count)]
        self.closed, self.late = 0, 0.0
        self.sent: dict[str, float] = {}
        self._clients: list[socketio.AsyncClient] = []
        self._confirmed = 0

    async def __aenter__(self) -> Crowd:
        for got in self.got:
            client = socketio.AsyncClient(reconnection=False)
            client.on("price_update", self._receiver(got))
            client.on("disconnect", self._gone)
            client.on("subscription_confirmed", self._confirm)
            await client.connect(self._url)
            await client.emit("subscribe", {"pairs": "*"})
            self._clients.append(client)
        await until(lambda: self._confirmed == len(self.got), "subscriptions")
        return self

    async def __aexit__(self, *_: object) -> None:
        for client in self._clients:
            client.on("disconnect", lambda *_: None)
            await client.disconnect()

    def _receiver(self, got: dict[str, list[str]]) -> Callable[[dict[str, Any]], None]:
        def receive(update: dict[str, Any]) -> None:
            moment = update["time"]
            got.setdefault(update["instrument"], []).append(moment)
            if (sent := self.sent.get(moment)) is not None:
                self.late = max(self.late, time.monotonic() - sent)

        return receive

    def _gone(self, *_: object) -> None:
        self.closed += 1

    def _confirm(self, _: object) -> None:
        self._confirmed += 1

    async def last_price(self) -> bool:
        """A client asks for one, and gets it."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        client = self._clients[0]
        client.on("price_response", lambda data: answer.done() or answer.set_result(data))
        await client.emit("request_price", {"instrument": DEFAULT_PAIRS[0]})
        try:
            return bool((await asyncio.wait_for(answer, WAIT_S))["price"]["mid"])
        except TimeoutError:
            return False

    def has(self, published: dict[str, list[str]]) -> bool:
        """Each client has as many as were published."""
        count = sum(map(len, published.values()))
        return all(sum(map(len, got.values())) >= count for got in self.got)


class Publisher:
    """Prices into Redis, each with a time of its own.

    Attributes:
        published: times of prices that Redis has handed over to somebody, by pair, in order.
        open: times of prices that Redis did not take, or took without saying so before it died.
    """

    def __init__(self, url: str, rate: float, sent: dict[str, float]) -> None:
        self._redis = redis.asyncio.Redis.from_url(url, socket_timeout=WAIT_S, socket_connect_timeout=WAIT_S)
        self._rate, self._sent = rate, sent
        self.published: dict[str, list[str]] = {}
        self.open: set[str] = set()
        self._number = 0
        self._begin = datetime(2026, 1, 1, tzinfo=UTC)
        self._running = True

    async def run(self) -> None:
        """Until :meth:`stop`."""
        due = time.monotonic()
        while self._running:
            await self._publish()
            due = max(due + 1 / self._rate, time.monotonic() - 1)
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    def is_all(self, got: dict[str, list[str]]) -> bool:
        """What was published, each once and in order, and perhaps some of what is open."""
        return self.published == {
            pair: [moment for moment in moments if moment not in self.open] for pair, moments in got.items()
        }

    async def settle(self) -> None:
        """Everything that Redis was given has left it: it writes to all before it reads again."""
        await self._redis.ping()

    def stop(self) -> None:
        """No further price."""
        self._running = False

    async def close(self) -> None:
        """At last."""
        await self._redis.aclose()

    async def _publish(self) -> None:
        pair = DEFAULT_PAIRS[self._number % len(DEFAULT_PAIRS)]
        moment = timestamp(self._begin + self._number * APART)
        self._number += 1
        price = {"instrument": pair, "bid": f"1.{self._number:06}", "ask": f"1.{self._number:06}5", "time": moment}
        self._sent[moment] = time.monotonic()
        try:
            taken = await self._redis.publish(CHANNEL, json.dumps(price))
        except (RedisError, OSError):
            taken = 0
        if taken:
            self.published.setdefault(pair, []).append(moment)
        else:
            self.open.add(moment)


async def until(condition: Callable[[], Any], what: str) -> float:
    """Seconds until it holds."""
    began = time.monotonic()
    while True:
        found = condition()
        if await found if isinstance(found, Awaitable) else found:
            return time.monotonic() - began
        if time.monotonic() > began + WAIT_S:
            raise SystemExit(f"within {WAIT_S:g} s not so: {what}")
        await asyncio.sleep(LOOK_S)


async def measure(away: str, seconds: float, rate: float, clients: int, workers: int) -> tuple[report.Row, list[str]]:
    """One outage: figures, and what is wrong."""
    async with AsyncExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fx-")))
        broker = stack.enter_context(RedisProcess())
        database = stack.enter_context(PostgresProcess())
        dsn = database.new_database()
        environment = {
            "FX_DSN": dsn,
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(APPLICATION))),
            "HELIOGRAPH_REDIS__URL": broker.url,
            "HELIOGRAPH_SERVER__RUNTIME_DIR": str(place / "run"),
        }
        options = ["--config", str(APPLICATION / "engine.toml"), "--port", "0", "--admin-port", "0"]
        options += ["--workers", str(workers)]
        server = stack.enter_context(Server([sys.executable, "-m", "engine", "run", *options], environment=environment))
        store = open_store({"dsn": dsn})
        await store.open()
        stack.push_async_callback(store.close)
        component = "services.store" if away == "postgres" else "feed:redis"

        async def status() -> str:
            health = await asyncio.to_thread(server.health)
            return str(health["components"].get(component, {}).get("status"))  # none: it has not begun

        async def others() -> list[str]:
            health = await asyncio.to_thread(server.health)
            return [f"{name}: {of}" for name, of in health["components"].items() if of["status"] != "ok" != name]

        async def is_ok() -> bool:
            return await status() == "ok"

        async def is_degraded() -> bool:
            return await status() != "ok"

        await until(is_ok, f"{component} is ok")
        crowd = await stack.enter_async_context(Crowd(f"http://127.0.0.1:{server.port}", clients))
        publisher = Publisher(broker.url, rate, crowd.sent)
        work = asyncio.create_task(publisher.run())
        await asyncio.sleep(WARM_S)
        before, crowd.late = crowd.late, 0.0
        if away == "postgres":
            await asyncio.to_thread(database.stop)
        else:
            await publisher.settle()
            broker.kill()
        killed = time.monotonic()
        told = await until(is_degraded, f"/health says that {component} is away")
        wrong = [text for text in await others() if not text.startswith(component)]
        answered = await crowd.last_price()
        await asyncio.sleep(max(0.0, killed + seconds - time.monotonic()))
        during, crowd.late = crowd.late, 0.0
        await asyncio.to_thread(database.start if away == "postgres" else broker.start)
        back = await until(is_ok, f"{component} is ok again")
        await asyncio.sleep(WARM_S)
        publisher.stop()
        await work
        await publisher.close()

        total = sum(map(len, publisher.published.values()))

        async def is_stored() -> bool:
            return await store.count_prices() >= total

        await until(lambda: crowd.has(publisher.published), "every client has every price")
        await until(is_stored, "every price is stored")
        wrong += await _faults(dsn, store, publisher)
        wrong += [f"client {n}: other prices" for n, got in enumerate(crowd.got) if not publisher.is_all(got)]
        wrong += [f"{crowd.closed} clients were disconnected"] if crowd.closed else []
        wrong += [] if answered else ["request_price was not answered"]
        missed = (await store.progress("store")).missed
        wrong += [f"{missed} prices were told as lost"] if missed else []
        row = {
            "away": away,
            "seconds": seconds,
            "clients": clients,
            "workers": workers,
            "prices": total,
            "not taken by Redis": len(publisher.open),
            "in /health after, s": told,
            "ok again after, s": back,
            "longest way before, ms": before * 1_000,
            "longest way while away, ms": during * 1_000,
            "nothing lost": not wrong,
        }
        return row, wrong


async def _faults(dsn: str, store: Any, publisher: Publisher) -> list[str]:
    """What is wrong with the tables."""
    connection = await asyncpg.connect(dsn)
    rows = await connection.fetch("SELECT * FROM real_time_prices_audit ORDER BY id")
    await connection.close()
    stored: dict[str, list[str]] = {}
    events = []
    for row in rows:
        price = Price(row["instrument"], row["bid"], row["ask"], row["mid"], row["time"])
        stored.setdefault(price.instrument, []).append(timestamp(price.time))
        events.append(PriceEvent(row["topic"], row["epoch"], row["event_offset"], row["received_at"], price))
    wrong = [] if publisher.is_all(stored) else ["stored are other prices"]
    wanted = of_prices(events)
    for pair in DEFAULT_PAIRS:
        for granularity in LIVE:
            found: list[Candle] = await store.candles(pair, granularity)
            expected = [wanted[key] for key in sorted(wanted) if key[:2] == (pair, granularity)]
            if [candle._replace(complete=False) for candle in found] != expected:
                wrong.append(f"{pair} {granularity}: other candles")
    return wrong


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--database", choices=("postgres", "redis"), required=True)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--clients", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    chosen = parser.parse_args(arguments)
    row, wrong = asyncio.run(measure(chosen.database, chosen.seconds, chosen.rate, chosen.clients, chosen.workers))
    print(report.listing(row))
    for text in wrong:
        print(f"WRONG: {text}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
