"""``docs/recovery.md`` says what is so, on a real engine."""

from __future__ import annotations

import asyncio
import re
import textwrap
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.client import Client
from engine.embedded import Engine
from transport.client_messages import DISCONNECTED
from transport.codes import GapReason
from transport.position import Position
from transport.requests import RequestDecoder, Subscribe

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs/recovery.md").read_text(encoding="utf-8")


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", GUIDE, re.M | re.S)


def test_the_snippets_run() -> None:
    watch, *rest = blocks("python")

    async def main() -> None:
        async with asyncio.timeout(30), Engine(workers=0, port=0, admin_port=0) as engine, Client(engine.url) as client:
            found: dict[str, Any] = {"client": client, "Position": Position}
            exec(compile(watch, "docs/recovery.md", "exec"), found)
            seen: list[Any] = []
            task = asyncio.create_task(found["watch"](engine.url, seen, []))
            while not seen:
                await client.publish("price.EUR_USD", {"bid": 1})
                await asyncio.sleep(0)
            task.cancel()
            body = textwrap.indent("".join(rest), "    ") + "    return events, later, position\n"
            exec(compile(f"async def run():\n{body}", "docs/recovery.md", "exec"), found)
            events, later, position = await found["run"]()
            assert events and later == [] and position.offset == 1

    asyncio.run(main())


def test_the_requests_are_ones() -> None:
    (lines,) = [block for block in blocks("json") if "since" in block]
    for line in lines.splitlines():
        request = RequestDecoder(binary=False).decode(line.encode())
        assert isinstance(request, Subscribe) and request.since is not None
        assert msgspec.json.decode(msgspec.json.encode(request)) == msgspec.json.decode(line)


def test_every_reason_is_explained() -> None:
    table = GUIDE[GUIDE.index("| reason |") : GUIDE.index("## Publishing once")]
    cells = [
        cell
        for row in table.splitlines()
        if row.startswith("| `")
        for cell in re.findall(r"`(\w+)`", row.split("|")[1])
    ]
    assert sorted(cells) == sorted([*GapReason, DISCONNECTED])


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)h][^)]*)\)", GUIDE))))
def test_a_link_leads_somewhere(link: str) -> None:
    assert (ROOT / "docs" / link.partition("#")[0]).is_file()
