"""Which key opens what, and which keys can be configured."""

from __future__ import annotations

from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.routing import Mount, Route

from engine import admin, admin_gate, config
from engine.admin_config import Admin, AdminKey, Scope
from engine.admin_gate import Gate, needed
from transport.codes import ErrorCode
from transport.errors import ConfigError, RequestError

SCOPES: tuple[Scope, ...] = ("publish", "read", "operate")
KEYS = {scope: AdminKey(key=f"key-that-is-for-{scope}", scopes=(scope,)) for scope in SCOPES}
OURS = {"host": "localhost", "content-type": "application/json"}


def asked(gate: Gate, method: str, path: str, key: str | None) -> str | None:
    """The refusal's code, or the name of the key that opened."""
    headers = OURS if key is None else OURS | {"authorization": f"Bearer {key}"}
    try:
        return gate.check(method, path, headers)
    except RequestError as error:
        assert key is None or key not in str(error)
        return error.code


def routes() -> list[tuple[str, str]]:
    """Method and path of all that the API has."""
    app = admin.application(cast(admin.Backend, object()), Gate(Admin()))
    [mount] = app.routes
    assert isinstance(mount, Mount)
    inner = mount.app._app.routes  # type: ignore[attr-defined]
    return [(method, route.path) for route in inner if isinstance(route, Route) for method in route.methods or ()]


def test_every_path_needs_a_scope_but_those_without_data() -> None:
    found = routes()
    assert len(found) > 20
    by_need: dict[Scope | None, set[tuple[str, str]]] = {}
    for method, path in found:
        by_need.setdefault(needed(method, path), set()).add((method, path))
    assert {path for _, path in by_need[None]} == {"/health", "/ready", "/", "/static/{name:path}", "/heliograph.js"}
    assert by_need["publish"] == {("POST", "/api/publish")}
    assert {method for method, _ in by_need["read"]} - {"GET", "HEAD"} == {"POST"}
    assert [path for method, path in by_need["read"] if method == "POST"] == ["/api/explain"]
    operate = {path for _, path in by_need["operate"]}
    assert {"/api/reload", "/api/drain", "/api/feeds/{name}/reset", "/api/sessions/{session}"} <= operate


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("GET", "/metrics", "read"),
        ("HEAD", "/stats", "read"),
        ("POST", "/api/explain", "read"),
        ("POST", "/api/publish", "publish"),
        ("POST", "/api/publish/", "operate"),
        ("POST", "/api/drain", "operate"),
        ("DELETE", "/api/sessions/x", "operate"),
        ("PUT", "/nowhere", "operate"),
    ],
)
def test_a_key_opens_what_its_scopes_say(method: str, path: str, scope: Scope) -> None:
    gate = Gate(Admin(keys=KEYS, api_key="master-of-all-the-scopes"))
    for name in SCOPES:
        opened = asked(gate, method, path, KEYS[name].key)
        assert opened == (name if name == scope else ErrorCode.FORBIDDEN)
    assert asked(gate, method, path, "master-of-all-the-scopes") == "api_key"
    for wrong in (None, "", "key-that-is-for", KEYS[scope].key + "x", KEYS[scope].key.upper(), "ключ"):
        headers = OURS if wrong is None else OURS | {"x-api-key": wrong.encode().decode("latin-1")}
        with pytest.raises(RequestError) as caught:
            gate.check(method, path, headers)
        assert (caught.value.code, caught.value.field) == (ErrorCode.UNAUTHORIZED, "Authorization")
    assert asked(Gate(Admin()), method, path, None) is None


def test_other_keys_from_now_on() -> None:
    gate = Gate(Admin(api_key="the-former-key"))
    gate.exchange(Admin(keys={"ci": AdminKey(key="the-latter-key", scopes=("read",))}))
    assert asked(gate, "GET", "/stats", "the-former-key") == ErrorCode.UNAUTHORIZED
    assert asked(gate, "GET", "/stats", "the-latter-key") == "ci"


def test_all_keys_are_compared_and_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[int, int]] = []

    def compare(a: bytes, b: bytes) -> bool:
        compared.append((len(a), len(b)))
        return a == b

    monkeypatch.setattr(admin_gate.hmac, "compare_digest", compare)
    gate = Gate(Admin(keys=KEYS))
    for key in (KEYS["publish"].key, "x", "long " * 1_000):
        compared.clear()
        asked(gate, "GET", "/stats", key)
        assert compared == [(32, 32)] * 3


@given(
    st.sampled_from(["GET", "POST", "DELETE", "X"]),
    st.text(),
    st.dictionaries(
        st.sampled_from(["host", "origin", "authorization", "x-api-key", "content-type"]),
        st.one_of(st.text(st.characters(max_codepoint=255)), st.sampled_from(["localhost", "[", "[::1", "Bearer"])),
    ),
)
def test_any_head_is_refused_and_nothing_else_happens(method: str, path: str, headers: dict[str, str]) -> None:
    if needed(method, path) is None:
        return
    with pytest.raises(RequestError) as caught:
        Gate(Admin(keys=KEYS)).check(method, path, headers)
    assert caught.value.field in ("Host", "Origin", "Authorization")


# configuration --------------------------------------------------------------------------------------------------------


def refused(text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        config.loads(text)
    return caught.value


def test_keys_in_the_configuration(tmp_path: Any) -> None:
    (tmp_path / "key").write_text("from-a-file-of-secrets\n")
    loaded = config.loads(
        f'[admin]\nhost = "0.0.0.0"\n[admin.keys.ci]\nkey_file = "{tmp_path}/key"\nscopes = ["publish", "read"]\n'
    )
    assert loaded.admin.all_keys() == {"ci": ("from-a-file-of-secrets", {"publish", "read"})}
    for shown in (config.effective_toml(loaded), str(config.masked(loaded))):
        assert "from-a-file" not in shown
        assert "***" in shown


@pytest.mark.parametrize(
    ("text", "field", "says"),
    [
        ('[admin]\nhost = "0.0.0.0"', "admin.api_key", "not a loopback"),
        ('[admin.keys.a]\nscopes = ["read"]', "admin.keys.a.key", "required"),
        ('[admin.keys.a]\nkey = "k"', "admin.keys.a.scopes", "required"),
        ('[admin.keys.a]\nkey = "k"\nscopes = []', "admin.keys.a.scopes", "length"),
        ('[admin.keys.a]\nkey = "k"\nscopes = ["root"]', "admin.keys.a.scopes", "operate"),
        ('[admin.keys.a]\nkey = ""\nscopes = ["read"]', "admin.keys.a.key", "length"),
        ('[admin.keys.a]\nkey = "k "\nscopes = ["read"]', "admin.keys.a.key", "no header"),
        ('[admin]\napi_key = "a\\nb"', "admin.api_key", "no header"),
        ('[admin]\napi_key = "k"\n[admin.keys.a]\nkey = "k"\nscopes = ["read"]', "admin.keys.a.key", "api_key"),
        ('[admin.keys.api_key]\nkey = "k"\nscopes = ["read"]', "admin.keys.api_key", "another"),
        ('[admin]\ntls_key_file = "x"', "admin.tls_cert_file", "tls_key_file"),
    ],
)
def test_what_cannot_be_configured(text: str, field: str, says: str) -> None:
    error = refused(text)
    assert error.field == field
    assert says in error.message
    assert error.line is not None


def test_a_reload_cannot_open_a_public_port_to_everybody() -> None:
    public = config.loads('[admin]\nhost = "0.0.0.0"\napi_key = "k"')
    with pytest.raises(ConfigError, match=r"admin\.api_key: .* until a restart"):
        config.reloaded(public, config.loads(""))
    other = config.reloaded(public, config.loads('[admin]\nport = 1\napi_key = "l"'))
    assert (other.admin.host, other.admin.port, other.admin.api_key) == ("0.0.0.0", 8766, "l")


def test_no_child_is_told_a_key() -> None:
    whole = config.loads('[server]\nport = 8766\n[admin]\nport = 1\napi_key = "k"\n[log]\nlevel = "debug"')
    told = config.for_children(whole)
    assert (told.admin.all_keys(), told.admin.port) == ({}, 0)
    assert config.for_children(whole, 8768).admin.port == 8768
    assert (told.server.port, told.log.level) == (8766, "debug")
    assert msgspec.convert(msgspec.to_builtins(told), config.Config) == told
