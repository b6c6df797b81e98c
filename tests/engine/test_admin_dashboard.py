"""The dashboard's files, and what its page is told."""

from __future__ import annotations

from typing import Any, cast

import httpx
import jwt
import pytest
import uvloop

from engine import admin, admin_dashboard
from engine.admin_config import Admin, AdminKey
from engine.admin_dashboard import ClientPort, policy, socket
from engine.admin_gate import Gate
from engine.auth_config import Auth

SECRET = "s" * 32
KEYS = {
    "reader": AdminKey(key="the-key-of-a-reader", scopes=("read",)),
    "operator": AdminKey(key="the-key-of-an-operator", scopes=("read", "operate")),
}


class FakeBackend:
    def __init__(self, tls: bool, auth: Auth) -> None:
        self.port = ClientPort(8765, tls, auth)

    def health(self) -> dict[str, Any]:
        return {"status": "ok", "version": "1.2.3", "node": "n", "components": {}}

    def client_port(self) -> ClientPort:
        return self.port


def get(
    *paths: str, of: Admin | None = None, auth: Auth | None = None, tls: bool = False, **headers: str
) -> list[httpx.Response]:
    """The answers to requests for paths."""

    async def main() -> list[httpx.Response]:
        backend = FakeBackend(tls, auth or Auth())
        app = admin.application(cast(admin.Backend, backend), Gate(of or Admin()))
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(base_url="http://127.0.0.1:8766", transport=transport) as client:
            return [await client.get(path, headers=headers) for path in paths]

    return uvloop.run(main())


def facts(of: Admin | None = None, auth: Auth | None = None, tls: bool = False, **headers: str) -> dict[str, Any]:
    [answer] = get("/api/dashboard", of=of, auth=auth, tls=tls, **headers)
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    return dict(answer.json())


def test_the_page_and_its_files_need_no_key() -> None:
    answers = get("/", *(f"/static/{name}" for name in admin_dashboard.FILES), of=Admin(api_key="k" * 16))
    assert {answer.status_code for answer in answers} == {200}
    types = {
        "html": "text/html; charset=utf-8",
        "css": "text/css; charset=utf-8",
        "js": "text/javascript; charset=utf-8",
    }
    for answer, name in zip(answers, ("index.html", *admin_dashboard.FILES), strict=True):
        assert answer.headers["content-type"] == types[name.rpartition(".")[2]]
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.content


def test_every_file_is_in_the_table() -> None:
    root = admin_dashboard.files("engine").joinpath("static", "dashboard")
    there = {path.name for path in root.iterdir() if path.is_file()}
    there |= {f"vendor/{path.name}" for path in root.joinpath("vendor").iterdir()}
    assert there - {"vendor/uPlot.LICENSE"} == {"index.html", *admin_dashboard.FILES}


def test_what_the_page_may_load() -> None:
    [page] = get("/")
    wanted = policy("ws://127.0.0.1:8765/ws")
    assert page.headers["content-security-policy"] == wanted
    rules = dict(rule.strip().split(" ", 1) for rule in wanted.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == rules["style-src"] == "'self'"
    assert rules["connect-src"] == "'self' ws://127.0.0.1:8765 http://127.0.0.1:8765"
    assert b"<script>" not in page.content
    assert b"style=" not in page.content
    assert b"//" not in page.content.replace(b"<!--", b"")  # nothing from elsewhere


def test_a_browser_that_has_a_file_gets_it_once() -> None:
    [first] = get("/static/main.js")
    [again] = get("/static/main.js", **{"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert first.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize("name", ["nothing.js", "../../config.py", "..%2f..%2fconfig.py", "vendor/", "index.html", ""])
def test_other_files_are_not_served(name: str) -> None:
    [answer] = get(f"/static/{name}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")


def test_what_the_page_is_told() -> None:
    told = facts()
    assert 1.7e9 < told.pop("started") <= told.pop("now")
    assert told == {
        "socket": "ws://127.0.0.1:8765/ws",
        "token": None,
        "token_needed": False,
        "operate": True,
        "version": "1.2.3",
        "node": "n",
    }


@pytest.mark.parametrize(
    ("host", "tls", "url"),
    [
        ("127.0.0.1:8766", False, "ws://127.0.0.1:8765/ws"),
        ("[::1]:8766", False, "ws://[::1]:8765/ws"),
        ("engine.example", True, "wss://engine.example:8765/ws"),
        ("", False, "ws://localhost:8765/ws"),
        ("a; script-src *", False, "ws://localhost:8765/ws"),
        ("a'b:1", False, "ws://localhost:8765/ws"),
    ],
)
def test_the_socket_has_the_name_by_which_the_page_came(host: str, tls: bool, url: str) -> None:
    assert socket({"host": host}, ClientPort(8765, tls, Auth())) == url


def test_facts_need_a_key_where_there_is_one() -> None:
    of = Admin(keys=KEYS)
    assert get("/api/dashboard", of=of)[0].status_code == 401
    assert facts(of, authorization="Bearer the-key-of-a-reader")["operate"] is False
    assert facts(of, authorization="Bearer the-key-of-an-operator")["operate"] is True


@pytest.mark.parametrize(("key", "calls"), [("the-key-of-a-reader", []), ("the-key-of-an-operator", ["progress.>"])])
def test_a_token_for_an_hour_and_no_more_than_the_page_needs(key: str, calls: list[str]) -> None:
    auth = Auth(secret=SECRET)
    told = facts(Admin(keys=KEYS), auth, authorization=f"Bearer {key}")
    assert told["token_needed"]
    claims = jwt.decode(told["token"], SECRET, ["HS256"])
    assert claims["sub"] == "dashboard"
    assert claims["exp"] - claims["iat"] == 3600
    assert claims["heliograph"] == {"subscribe": ["system.>", "alert.>", "progress.>"], "publish": [], "call": calls}


def test_tokens_of_others_are_asked_for() -> None:
    told = facts(auth=Auth(jwks='{"keys": []}'))
    assert (told["token_needed"], told["token"]) == (True, None)
