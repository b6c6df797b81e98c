"""The engine inside a FastAPI application: it starts and stops with it, on the same loop.

pip install 'heliograph[examples]' uvicorn
uvicorn --app-dir examples fastapi_app:app
heliograph subscribe 'order.>'                                      in another terminal
curl -X POST localhost:8000/orders/17 -H 'content-type: application/json' -d '{"status": "filled"}'
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

from heliograph import Engine, topic


def create_app(**settings: Any) -> FastAPI:
    """The application; ``settings`` are those of :class:`heliograph.Engine`."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with Engine(workers=0, **settings) as engine:
            app.state.engine = engine
            yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/stream")
    async def stream() -> dict[str, str]:
        """Where browsers connect their WebSocket."""
        return {"url": app.state.engine.url}

    @app.post("/orders/{number}")
    async def order(number: int, change: dict[str, Any]) -> dict[str, Any]:
        """Change an order, and tell everybody who follows it."""
        position = await app.state.engine.publish(topic("order", number), change, type="order_changed")
        return {"offset": position.offset}

    return app


app = create_app()
