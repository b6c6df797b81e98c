"""The admin API: health, figures, publishing and operation over HTTP, served by the daemon.

Every refusal is ``{"error": {"code", "message", "field"}}``, ``field`` null where no field is at fault:

| status | codes |
|---|---|
| 400 | ``bad_request``, ``invalid_topic``, ``invalid_filter``, ``limit_exceeded``: mend or shrink the request |
| 401, 403, 404, 409 | ``unauthorized``, ``forbidden``, ``not_found``, ``conflict`` |
| 429, 503 | ``rate_limited``, ``unavailable``: wait, then repeat |
| 501 | ``unsupported``: the contract has the path or the field, this version does not yet |
| 500 | ``internal``: a bug, logged |

Not used: 405 (a method that a path does not offer is 404, with ``Allow``), 413 (``limit_exceeded``) and 415
(``bad_request`` naming ``Content-Type``). Who may ask at all is :class:`engine.admin_gate.Gate`'s.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Annotated, Any, Protocol

import msgspec
from msgspec import Meta
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from actors.identity import check_unowned
from engine import (
    admin_alerts,
    admin_dashboard,
    admin_explain,
    admin_history,
    admin_index,
    admin_javascript,
    admin_monitor,
    admin_parameters,
    admin_restart,
    admin_series,
    admin_sessions,
)
from engine.admin_config import Admin
from engine.admin_gate import Gate, needed
from engine.admin_http import answer, decoded, read_body
from engine.config import Config
from engine.http_server import HttpServer
from engine.log import get_logger
from transport.addresses import is_loopback
from transport.codes import ErrorCode, Priority
from transport.errors import ConfigError, HeliographError, RequestError
from transport.messages import Publish
from transport.position import Position
from transport.tls import ServerTls
from transport.topics import check_topic, is_system

ANSWER_TIMEOUT = 60.0  # s for the backend to answer; a drain takes longest
PUBLISHES = 1_000  # events in one request
LOGGED_PATH = 200  # characters; none that leads somewhere is longer
SHORT_KEY = 16  # characters; a key of fewer is warned of

STATUS = {
    ErrorCode.BAD_REQUEST: 400,
    ErrorCode.INVALID_TOPIC: 400,
    ErrorCode.INVALID_FILTER: 400,
    ErrorCode.LIMIT_EXCEEDED: 400,  # not 429: clients repeat those unchanged
    ErrorCode.UNAUTHORIZED: 401,
    ErrorCode.FORBIDDEN: 403,
    ErrorCode.NOT_FOUND: 404,
    ErrorCode.CONFLICT: 409,
    ErrorCode.RATE_LIMITED: 429,
    ErrorCode.INTERNAL: 500,
    ErrorCode.UNSUPPORTED: 501,
    ErrorCode.UNAVAILABLE: 503,
}

FEED_ACTIONS = ("reset", "disconnect", "connect")
"""What an operator may do to a feed; see :class:`actors.feed_supervisor.OperateFeed`."""


class Backend(
    admin_dashboard.Backend,
    admin_sessions.Backend,
    admin_history.Backend,
    admin_monitor.Backend,
    admin_restart.Backend,
    admin_series.Backend,
    Protocol,
):
    """What the API speaks for; called on the loop that serves it."""

    def health(self) -> dict[str, Any]:
        """``{"status": "ok|degraded|down", "version", "node", "components"}``, without waiting for anything.

        ``components`` is ``{NAME: {"status", "reason", "retry_in"}}``.
        """

    def ready(self) -> str | None:
        """``None``, or the reason why no client should be sent here."""

    async def stats(self) -> dict[str, Any]:
        """The engine at a glance, as what JSON can hold."""

    async def metrics(self) -> bytes:
        """Prometheus's text format 0.0.4."""

    def feeds(self) -> dict[str, Any]:
        """``{NAME: snapshot}`` as last known (:class:`actors.feed_supervisor.GetFeeds`), without waiting for anything.

        While nobody works on the feeds they are ``disconnected`` for that reason; the rest is what was known before.
        """

    async def operate_feed(self, name: str, action: str, /) -> dict[str, Any]:
        """Do one of :data:`FEED_ACTIONS`; the feed's snapshot thereafter.

        Raises:
            RequestError: ``not_found``; ``conflict``: the feed is not in a state for it; ``unavailable``: nobody works
                on the feeds, or nobody answered and the outcome is unknown.
        """

    def owned_topics(self) -> Collection[str]:
        """Those on which only the engine publishes, see :attr:`engine.config.Config.owned_topics`."""

    async def publish(self, batch: list[Publish], /) -> Sequence[Position]:
        """Publish valid events in order (``ref`` is 0 in all of them); their positions in the same order.

        Raises:
            RequestError: ``unavailable``, or why the hub refused one; those before it may have been accepted.
        """

    async def reload(self, config: Config, /) -> list[str]:
        """Put a configuration in force; the names of what only a restart takes."""

    async def drain(self) -> None:
        """Begin to send clients away and to stop."""


class AdminServer:
    """The API on a socket. ``start`` and ``stop`` are :class:`~engine.http_server.HttpServer`'s.

    Args:
        config: of the engine; ``[admin]`` says who may ask, and whether over TLS.
        sock: bound, not listening; closed by :meth:`stop`.
        load: reads the configuration anew for ``POST /api/reload``; ``None``: there is nothing to read.
        refused: requests that the gate refused are counted here, by error code.
        on_death: called with the reason if serving ends by itself.

    Raises:
        ConfigError: the certificate cannot be used.
    """

    def __init__(
        self,
        backend: Backend,
        config: Config,
        sock: socket.socket,
        *,
        load: Callable[[], Config] | None = None,
        refused: dict[str, int] | None = None,
        on_death: Callable[[str], None] | None = None,
    ) -> None:
        self._admin, admin = config.admin, config.admin
        self._gate = Gate(admin)
        self._tls = None if admin.tls_cert_file is None else ServerTls(admin.tls_cert_file, admin.tls_key_file, "admin")
        app = application(backend, self._gate, load, refused)
        self._http = HttpServer(app, sock, tls=None if self._tls is None else self._tls.context, on_death=on_death)

    async def start(self) -> None:
        """Return when requests are answered; :class:`HeliographError` if that fails."""
        if self._tls is None and not is_loopback(self._admin.host):
            get_logger().warning("admin_without_tls", host=self._admin.host, fix="set admin.tls_cert_file")
        self._warn_of_short_keys()
        await self._http.start()

    def reload(self, admin: Admin) -> None:
        """Take ``admin``'s keys, and the certificate from its file; connections go on.

        Raises:
            ConfigError: the certificate cannot be used; nothing has changed.
        """
        if self._tls is not None:
            self._tls.reload()
        self._gate.exchange(admin)
        self._admin = admin
        self._warn_of_short_keys()

    def _warn_of_short_keys(self) -> None:
        for name, (key, _) in self._admin.all_keys().items():
            if len(key) < SHORT_KEY:
                get_logger().warning("admin_key_is_short", key=name, fix=f"take {SHORT_KEY} random characters or more")

    async def stop(self) -> None:
        """Finish what is being answered, within a deadline. Idempotent."""
        await self._http.stop()


def application(
    backend: Backend,
    gate: Gate,
    load: Callable[[], Config] | None = None,
    refused: dict[str, int] | None = None,
) -> Starlette:
    """The API as an ASGI application; see :class:`AdminServer`."""
    api = _Api(backend, load)
    router = Router(
        [
            Route("/health", api.health),
            Route("/ready", api.ready),
            Route("/metrics", api.metrics),
            Route("/stats", api.stats),
            Route("/api/feeds", api.feeds),
            *(
                Route(f"/api/feeds/{{name}}/{action}", partial(api.operate_feed, action), methods=["POST"])
                for action in FEED_ACTIONS
            ),
            Route("/api/publish", api.publish, methods=["POST"]),
            Route("/api/reload", api.reload, methods=["POST"]),
            Route("/api/drain", api.drain, methods=["POST"]),
            *admin_dashboard.routes(backend, gate),
            *admin_javascript.routes(),
            *admin_sessions.routes(backend),
            *admin_explain.routes(backend),
            *admin_history.routes(backend),
            *admin_alerts.routes(backend),
            *admin_index.routes(backend),
            *admin_parameters.routes(backend),
            *admin_restart.routes(backend),
            *admin_series.routes(backend),
        ],
        redirect_slashes=False,
    )
    return Starlette(
        routes=[Mount("/", _Guarded(router, gate, {} if refused is None else refused))],
        exception_handlers={HeliographError: _refused, HTTPException: _no_route, Exception: _failed},
    )


class _Guarded:
    """The gate before the routes, a log of who was refused and who operated, and a deadline on what happens behind."""

    def __init__(self, app: ASGIApp, gate: Gate, refused: dict[str, int]) -> None:
        self._app, self._gate, self._refused = app, gate, refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._check(scope)
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT):
                await self._app(scope, receive, send)
        except TimeoutError:
            message = f"no answer within {ANSWER_TIMEOUT:g} s; the outcome is unknown"
            raise RequestError(ErrorCode.UNAVAILABLE, message) from None

    def _check(self, scope: Scope) -> None:
        method, path = scope["method"], scope["path"]
        address = scope["client"][0] if scope["client"] else None
        try:
            key = self._gate.check(method, path, Request(scope).headers)
        except RequestError as error:
            self._refused[error.code] = self._refused.get(error.code, 0) + 1
            # No word of the request's own: there may be a key among them, mistyped by one letter.
            get_logger().warning("admin_refused", address=address, code=error.code, field=error.field)
            raise
        scope["heliograph.key"] = key  # who changes something is remembered with it
        if needed(method, path) == "operate" and path.isprintable() and len(path) <= LOGGED_PATH:
            get_logger().info("admin_operation", address=address, key=key, method=method, path=path)


class _Api:
    """The endpoints."""

    def __init__(self, backend: Backend, load: Callable[[], Config] | None) -> None:
        self._backend, self._load = backend, load

    async def health(self, request: Request) -> Response:
        return answer(self._backend.health())

    async def ready(self, request: Request) -> Response:
        reason = self._backend.ready()
        if reason is not None:
            raise RequestError(ErrorCode.UNAVAILABLE, reason)
        return answer({"status": "ready"})

    async def metrics(self, request: Request) -> Response:
        return Response(await self._backend.metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def stats(self, request: Request) -> Response:
        return answer(await self._backend.stats())

    async def feeds(self, request: Request) -> Response:
        return answer({"feeds": self._backend.feeds()})

    async def operate_feed(self, action: str, request: Request) -> Response:
        name = request.path_params["name"]
        try:
            snapshot = await self._backend.operate_feed(name, action)
        except RequestError as error:
            get_logger().warning("feed_operation_refused", feed=name, action=action, code=error.code)
            raise
        get_logger().info("feed_operated", feed=name, action=action, state=snapshot["state"])
        return answer({"feed": name, **snapshot})

    async def publish(self, request: Request) -> Response:
        batch, single = publishes(await read_body(request))
        owned = self._backend.owned_topics()
        for i, event in enumerate(batch):
            check_unowned(event.topic, owned, "topic" if single else f"[{i}].topic")
        results = [
            msgspec.structs.asdict(position) if position.epoch else {"pending": True}
            for position in await self._backend.publish(batch)
        ]
        return answer(results[0] if single else {"results": results})

    async def reload(self, request: Request) -> Response:
        if self._load is None:
            raise RequestError(ErrorCode.CONFLICT, "this engine has no configuration file to read again")
        return answer({"status": "reloaded", "needs_restart": await self._backend.reload(self._load())})

    async def drain(self, request: Request) -> Response:
        await self._backend.drain()
        return answer({"status": "draining"})


def no_feed(name: str) -> RequestError:
    """No feed of that name is configured."""
    return RequestError(ErrorCode.NOT_FOUND, f"there is no feed {name!r}")


# requests -------------------------------------------------------------------------------------------------------------


class _Publish(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    topic: str
    data: msgspec.Raw  # the publisher's digits
    type: str = "message"
    key: str | None = None
    priority: Priority | None = None
    source_ts: float | None = None
    idempotency_key: Annotated[str, Meta(min_length=1, max_length=128)] | None = None


_one, _many = msgspec.json.Decoder(_Publish), msgspec.json.Decoder(list[_Publish])


def publishes(body: bytes) -> tuple[list[Publish], bool]:
    """The events of a publish request's body, and whether it is one map and not a list.

    Raises:
        RequestError: any of them is wrong; ``field`` names it, in a list as ``[3].topic``.
    """
    single = not body.lstrip().startswith(b"[")
    requests = [decoded(_one.decode, body)] if single else decoded(_many.decode, body)
    if not requests:
        raise RequestError(ErrorCode.BAD_REQUEST, "the list is empty")
    if len(requests) > PUBLISHES:
        raise RequestError(ErrorCode.LIMIT_EXCEEDED, f"{len(requests)} events in one request, at most {PUBLISHES}")
    return [_checked(request, "" if single else f"[{i}].") for i, request in enumerate(requests)], single


def _checked(request: _Publish, where: str) -> Publish:
    check_topic(request.topic, f"{where}topic")
    if is_system(request.topic):
        raise RequestError(ErrorCode.FORBIDDEN, "system.> belongs to the engine", f"{where}topic")
    return Publish(
        ref=0,
        topic=request.topic,
        type=request.type,
        data=bytes(request.data),
        key=request.key,
        priority=request.priority,
        source_ts=request.source_ts,
        idempotency_key=request.idempotency_key,
    )


# answers --------------------------------------------------------------------------------------------------------------


def _error(error: RequestError, headers: dict[str, str] | None = None) -> Response:
    body = {"error": {"code": error.code, "message": error.message, "field": error.field}}
    return answer(body, STATUS[error.code], headers)


async def _refused(request: Request, error: Exception) -> Response:
    match error:
        case RequestError(code=ErrorCode.UNAUTHORIZED):
            return _error(error, {"www-authenticate": "Bearer"})
        case RequestError():
            return _error(error)
        case ConfigError():
            return _error(RequestError(ErrorCode.BAD_REQUEST, str(error), error.field))
        case _:
            return _error(RequestError(ErrorCode.UNAVAILABLE, str(error)))


async def _no_route(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    method, path, allow = request.method, request.url.path, (error.headers or {}).get("Allow")
    message = f"{path} does not take {method} but {allow}" if allow else f"there is no {path}"
    return _error(RequestError(ErrorCode.NOT_FOUND, message), {"allow": allow} if allow else None)


async def _failed(request: Request, error: Exception) -> Response:
    return _error(RequestError(ErrorCode.INTERNAL, "a bug; the engine's log has it"))  # uvicorn logs what is raised
