from __future__ import annotations

import os
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.mapping import Mapper
from engine import config, toml_text
from engine.admin_config import Admin
from engine.config import Config, load, loads
from engine.feed_config import Feed
from engine.server_config import Server
from transport.errors import ConfigError

ROOT = Path(__file__).parents[2]
FEED = '[feeds.fx]\nurl = "ws://exchange.example/stream"\n'
TWO_MAPS = FEED + "[[feeds.fx.map]]\nfilter = { e = 'tick' }\n[[feeds.fx.map]]\nkey = 's'\n"


def refused(text: str, **more: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        loads(text, **more)
    return caught.value


def test_without_file_and_environment_every_field_has_its_default() -> None:
    assert load(environ={}) == Config()


def test_command_line_beats_environment_beats_file(tmp_path: Path) -> None:
    file = tmp_path / "heliograph.toml"
    file.write_text("[server]\nport = 1\nworkers = 1\n[limits]\ntopics = 7\n")
    environ = {"HELIOGRAPH_SERVER__PORT": "2", "HELIOGRAPH_SERVER__WORKERS": "2"}
    effective = load(file, {"server.port": 3}, environ)
    assert (effective.server.port, effective.server.workers, effective.limits.topics) == (3, 2, 7)
    assert load(None, None, {"HELIOGRAPH_CONFIG": str(file)}).server.port == 1


def test_overrides_of_none_and_empty_variables_are_not_given() -> None:
    assert loads("[server]\nport = 1", {"server.port": None}, {"HELIOGRAPH_SERVER__PORT": ""}).server.port == 1


def test_variables_that_are_not_fields_are_left_alone() -> None:
    environ = {"HELIOGRAPH_URL": "ws://x", "HELIOGRAPH_TOKEN": "t", "PATH__X": "1"}
    assert load(environ=environ) == Config()


@pytest.mark.parametrize(
    ("variable", "text", "field", "value"),
    [
        ("SERVER__WORKERS", "0", "server.workers", 0),
        ("SERVER__WORKERS", "none", "server.workers", None),
        ("DELIVERY__PACING", "adaptive", "delivery.pacing", "adaptive"),
        ("DELIVERY__PACING", "0.01", "delivery.pacing", 0.01),
        ("SERVER__NODE", "42", "server.node", "42"),
        ("FEEDS__FX__IDLE_TIMEOUT", "None", "feeds.fx.idle_timeout", None),
        ("FEEDS__FX__MAP__TYPE", "tick", "feeds.fx.map.type", "tick"),
    ],
)
def test_environment_becomes_what_the_field_needs(variable: str, text: str, field: str, value: object) -> None:
    found: Any = loads(FEED, environ={f"HELIOGRAPH_{variable}": text})
    for name in field.split("."):
        found = found[0] if isinstance(found, tuple) else found
        found = found[name] if isinstance(found, dict) else getattr(found, name)
    assert found == value


def test_environment_finds_a_name_in_any_case() -> None:
    effective = loads('[feeds.My-Feed]\nurl = "ws://a"', environ={"HELIOGRAPH_FEEDS__MY_FEED__URL": "ws://b"})
    assert effective.feeds["My-Feed"].url == "ws://b"


@pytest.mark.parametrize(
    ("text", "field", "line", "says"),
    [
        ('[server]\n\nport = "x"', "server.port", 3, "Expected int, got text"),
        ("[server]\nport = 65536", "server.port", 2, "65535"),
        ("[server]\nhost = ''", "server.host", 2, "length >= 1"),
        ("[server]\nprot = 1", "server.prot", 2, "did you mean port?"),
        ("[sever]\nport = 1", "sever", 1, "did you mean server?"),
        ("[limits]\n# x\nqqq = 1", "limits.qqq", 3, "known here: connections"),
        ("server = 1", "server", 1, "must be a table"),
        ("[log]\nlevel = 'loud'", "log.level", 2, "one of debug, info"),
        ("[delivery]\npacing = 'fast'", "delivery.pacing", 2, "one of adaptive, a number"),
        ("[delivery]\npacing = 1.5", "delivery.pacing", 2, "<= 1.0"),
        ("[limits]\ntopics = true", "limits.topics", 2, "Expected int, got bool"),
        ("[server]\nheartbeat_timeout = 2", "server.heartbeat_timeout", 2, "twice heartbeat_interval"),
        ("[server]\ndrain_timeout = nan", "server.drain_timeout", 2, ""),
        ("[server]\ntls_key_file = 'k.pem'", "server.tls_cert_file", 1, "tls_key_file is given"),
        ("[server]\ntls_cert_file = ''", "server.tls_cert_file", 2, "length >= 1"),
        ("[server]\norigins = ['*', 'app.example']", "server.origins[1]", 2, "https://app.example:8443"),
        ("[server]\norigins = ['https://app.example/']", "server.origins[0]", 2, "must be"),
        ("[server]\norigins = 'https://app.example'", "server.origins", 2, "Expected list"),
        ("[server]\ntrusted_proxies = ['::1', 'proxy']", "server.trusted_proxies[1]", 2, "no address or network"),
        ("[server]\ntrusted_proxies = ['10.0.0.1/8']", "server.trusted_proxies[0]", 2, "host bits"),
        ("[server]\ndeflate = 1", "server.deflate", 2, "Expected bool, got int"),
        ("[limits]\nconnect_rate = 0", "limits.connect_rate", 2, "> 0"),
        ("[limits]\nmessage_rate = -1", "limits.message_rate", 2, "> 0"),
        ("[limits]\nmessage_rate = 'fast'", "limits.message_rate", 2, 'Expected float or "none", got text'),
        ("[limits]\nconnections_per_ip = 0", "limits.connections_per_ip", 2, ">= 1"),
        ("[limits]\nsessions_per_user = 1.5", "limits.sessions_per_user", 2, "got float"),
        ("[limits]\nhandshake_timeout = 0", "limits.handshake_timeout", 2, "> 0"),
        ("[limits]\nmessage_bytes = 8388608", "limits.message_bytes", 2, "<= 4194304"),
        ('[admin]\nhost = "0.0.0.0"', "admin.api_key", 1, "not a loopback"),
        ("[admin]\nport = 8765", "admin.port", 2, "server.port already"),
        ("[feeds.fx]\nidle_timeout = 1", "feeds.fx.url", 1, "required"),
        ('[feeds.fx]\nurl = "http://x"', "feeds.fx.url", 2, "ws://"),
        ('[feeds.fx]\nurl = "ws://x:99999"', "feeds.fx.url", 2, "ws://"),
        (FEED + "backoff_initial = 2\nbackoff_max = 1", "feeds.fx.backoff_max", 4, "backoff_initial"),
        (FEED + "[feeds.fx.headers]\nA = 1", "feeds.fx.headers.A", 4, "Expected text, got int"),
        (FEED + "[feeds.fx.headers]\n'X Key' = 'v'", "feeds.fx.headers.X Key", 4, "no HTTP header may"),
        (FEED + '[feeds.fx.headers]\nA = "b\\nc"', "feeds.fx.headers.A", 4, "no HTTP header may"),
        (FEED + "token = 'schlüssel'", "feeds.fx.token", 3, "printable ASCII"),
        (FEED + "token = 'a'\ntoken_file = 'b'", "feeds.fx.token", 3, "give one of"),
        ("[feeds.fx]\nurl = 'wss://me:pw@x/'\ntoken = 'a'", "feeds.fx.token", 3, "Authorization already"),
        ("[feeds.fx]\nurl = 'wss://x y/'", "feeds.fx.url", 2, "ws://"),
        (FEED + "failover = ['ws://b', 'http://c']", "feeds.fx.failover[1]", 3, "ws://"),
        (FEED + "proxy = 'http://p:99999'", "feeds.fx.proxy", 3, "must be http://"),
        (FEED + "proxy = 'ftp://p'", "feeds.fx.proxy", 3, "must be http://"),
        (FEED + "idle_timeout = '30s'", "feeds.fx.idle_timeout", 3, 'Expected float or "none", got text'),
        (FEED + "subscribe = { op = 'x' }", "feeds.fx.subscribe", 3, "Expected list, got table"),
        (FEED + "close_timeout = 5.0", "feeds.fx.close_timeout", 3, "<= 3"),
        (FEED + "breaker_open = 9.0\nbreaker_open_max = 8.0", "feeds.fx.breaker_open_max", 4, "breaker_open"),
        (FEED + "heartbeat = 'ping'", "feeds.fx.heartbeat_interval", 1, "need each other"),
        (FEED + "protocol = 'heliograph'\nsequence = 'n'", "feeds.fx.sequence", 4, "'mapped' only"),
        (FEED + "resume = [{ since = '{number}' }]", "feeds.fx.resume", 3, "a map with a sequence"),
        (
            FEED + "resume = [{ a = ['{seq}'] }]\n[feeds.fx.map]\nsequence = 'n'",
            "feeds.fx.resume[0]",
            3,
            "{seq} stands for nothing",
        ),
        (
            FEED + "token = 'a'\n[feeds.fx.headers]\nauthorization = 'b'",
            "feeds.fx.headers.Authorization",
            4,
            "token makes it",
        ),
        (FEED + "options = { a = 1 }", "feeds.fx.options", 3, "other than mapped"),
        (f"[feeds.{'x' * 250}]\nurl = 'ws://h/'", f"feeds.{'x' * 250}", 1, "at most 255 bytes"),
        (FEED + "[feeds.fx.map.data]\nbid = 'a..b'", "feeds.fx.map.data.bid", 4, "not a path"),
        (FEED + "map = 1", "feeds.fx.map", 3, "a list of tables"),
        (FEED + "map = []", "feeds.fx.map", 3, "a list of tables"),
        (FEED + "map = [{}, 1]", "feeds.fx.map[1]", 3, "must be a table"),
        (FEED + "[[feeds.fx.map]]\nkex = 's'", "feeds.fx.map[0].kex", 4, "did you mean key?"),
        (TWO_MAPS + "[feeds.fx.map.data]\nbid = 'a..b'", "feeds.fx.map[1].data.bid", 8, "not a path"),
        (TWO_MAPS + "types = { bid = 'float' }", "feeds.fx.map[1].types.bid", 7, "one of number, text, bool"),
        (TWO_MAPS + "[[feeds.fx.map]]\nkey = 't'", "feeds.fx.map[2]", 7, "map[1] has no filter and takes all"),
        (FEED + "map.filter.e = { exist = true }", "feeds.fx.map.filter.e", 3, "exists"),
        (FEED + "map = { topic = 'a b' }", "feeds.fx.map.topic", 3, "not a topic"),
        (FEED + "map.topic = 'system.x'", "feeds.fx.map.topic", 3, "engine"),
        (FEED + "subscribe = [\n1,\n]", "feeds.fx.subscribe", 3, "Expected table, got int"),
        ("[stages.s]\nactor = 'nope'", "stages.s.actor", 2, "package.module:Class"),
        ("[stages.s]\nfunction = 'nope:'", "stages.s.function", 2, "package.module:function"),
        ("[stages.s]\ntopics = ['a']", "stages.s.actor", 1, "exactly one"),
        ("[stages.s]\nactor = 'a:B'\nfunction = 'a:b'", "stages.s.function", 3, "exactly one"),
        ("[stages.s]\nfunction = 'a:b'\noptions = { x = 1 }", "stages.s.options", 3, "has none"),
        ("[stages.s]\nactor = 'a:B'\ntimeout = 0", "stages.s.timeout", 3, "> 0"),
        ("[stages.s]\nactor = 'a:B'\non_error = 'retry'", "stages.s.on_error", 3, "pass"),
        ("[stages.s]\nactor = 'a:B'\ntopics = ['a', '.']", "stages.s.topics[1]", 3, "topic pattern"),
        ("[services.s]\nactor = 'a.b'", "services.s.actor", 2, "package.module:Class"),
        ("[services.s]\ntopics = ['a']", "services.s.actor", 1, "is required"),
        ("[services.s]\nactor = 'a:B'\ntopics = ['a', '.']", "services.s.topics[1]", 3, "topic pattern"),
        ("[stages.s]\nactor = 'a:B'\ntopics = []", "stages.s.topics", 3, "length >= 1"),
    ],
)
def test_an_error_names_field_and_line(text: str, field: str, line: int, says: str) -> None:
    error = refused(text)
    assert (error.field, error.line) == (field, line)
    assert says in error.message


@pytest.mark.parametrize("table", ["store"])
def test_tables_to_come_are_refused_by_name(table: str) -> None:
    error = refused(f"[log]\n[{table}]\na = 1")
    assert error.line == 2
    assert error.message == "not supported by this version"


def test_text_that_is_not_toml_names_the_line() -> None:
    assert refused("[server]\nport = = 1").line == 2
    assert "not TOML" in refused("[server]\nport = 1\nport = 2").message


def test_an_error_in_the_environment_names_the_variable_and_no_line() -> None:
    error = refused("[server]\nport = 1", environ={"HELIOGRAPH_SERVER__PORT": "many"})
    assert (error.field, error.line) == ("server.port", None)
    assert "HELIOGRAPH_SERVER__PORT" in error.message
    assert "did you mean port?" in refused("", environ={"HELIOGRAPH_SERVER__PROT": "1"}).message
    assert refused("", overrides={"server.port": -1}).field == "server.port"


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*No such file"):
        load(tmp_path / "none.toml", environ={})
    (tmp_path / "latin.toml").write_bytes(b"# \xe9")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load(tmp_path / "latin.toml", environ={})


def test_a_secret_comes_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(" s3cret \n")
    assert loads(f'[admin]\napi_key_file = "{tmp_path}/key"').admin.api_key == "s3cret"
    headers = loads(FEED + f'headers.Authorization_file = "{tmp_path}/key"').feeds["fx"].headers
    assert headers == {"Authorization": "s3cret"}
    environ = {"HELIOGRAPH_ADMIN__API_KEY_FILE": f"{tmp_path}/key"}
    assert loads("[admin]\napi_key = 'other'", environ=environ).admin.api_key == "s3cret"
    assert loads(f'[admin]\napi_key_file = "{tmp_path}/key"', {"admin.api_key": "o"}).admin.api_key == "o"


def test_a_secret_given_twice_or_in_a_missing_or_empty_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    assert refused("[admin]\napi_key = 'a'\napi_key_file = 'b'").field == "admin.api_key_file"
    assert refused("[admin]\napi_key_file = '/nowhere/key'").line == 2
    assert "empty" in refused(f'[admin]\napi_key_file = "{tmp_path}/empty"').message


def test_errors_never_show_a_secret() -> None:
    assert "s3cret" not in str(refused("[admin]\napi_key = ['s3cret']"))


def test_masked_shows_no_secret_but_what_is_there() -> None:
    effective = loads(
        f"[auth]\nsecret = '{'s3cret' * 6}'\n[admin.keys.a]\nkey = 's3cret-a'\nscopes = ['read']\n"
        "[redis]\nurl = 'redis://me:s3cret@host'\nchannels = { a = 'b' }\n[backplane]\npassword = 's3cret'\n"
        "[admin]\napi_key = 's3cret'\n[feeds.fx]\nurl = 'wss://me:s3cret@host/p?token=s3cret'\n"
        "headers = { Cookie = 's3cret' }\nsubscribe = [{ op = 'login', args = [{ apiKey = 's3cret', sign = 1 }] }]\n"
        "[stages.s]\nactor = 'a:B'\noptions = { db_password = 's3cret', window = 5 }"
    )
    shown = config.masked(effective)
    assert "s3cret" not in str(shown)
    assert "s3cret" not in repr(effective)
    assert shown["feeds"]["fx"]["url"] == "wss://***@host/p?***"
    assert shown["feeds"]["fx"]["headers"] == {"Cookie": "***"}
    assert shown["stages"]["s"]["options"]["window"] == 5
    assert config.masked(Config())["admin"]["api_key"] == "none"


def test_the_effective_configuration_is_toml_that_loads() -> None:
    effective = loads('[server]\nworkers = 3\n[feeds."a b"]\nurl = "ws://x"\n[feeds."a b".map.symbols]\n"A/B" = "C"')
    assert loads(config.effective_toml(effective)) == effective


def test_one_map_or_several_are_shown_as_they_are_written() -> None:
    for maps, heading in (
        ("[feeds.fx.map]\nkey = 's'\n[feeds.fx.map.filter]\ne = [1, 'x']\nf = { exists = true }", "[feeds.fx.map]"),
        (TWO_MAPS.removeprefix(FEED) + "data = { bid = 'b' }", "[[feeds.fx.map]]"),
    ):
        effective = loads(FEED + maps)
        shown = config.effective_toml(effective)
        assert shown.splitlines().count(heading) == len(effective.feeds["fx"].map)
        assert loads(shown) == effective


def test_the_default_configuration_loads_and_says_everything() -> None:
    text = config.defaults_toml()
    assert loads(text) == Config()
    uncommented = re.sub(r"^#(?! )", "", text, flags=re.MULTILINE)
    assert set(loads(uncommented).feeds) == {"fx"}
    for line, above in zip(text.splitlines()[1:], text.splitlines(), strict=False):
        if "=" in line and not line.startswith("# "):
            assert above.startswith("# "), f"no comment above {line}"


def test_what_lies_beside_the_file_can_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", ["first"])
    file = tmp_path / "heliograph.toml"
    for path, environ in ((None, {}), (file, {}), (None, {"HELIOGRAPH_CONFIG": str(file)})):
        config.import_beside(path, environ)
        assert sys.path == (["first", str(tmp_path)] if path or environ else ["first"])
    anybody = tmp_path / "tmp"
    anybody.mkdir()
    anybody.chmod(0o1777)
    config.import_beside(anybody / "heliograph.toml", {})
    assert str(anybody) not in sys.path


def test_the_documentation_has_every_field() -> None:
    page = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    assert page.endswith(config.reference()), (
        "renew its end: python -c 'from engine import config; print(config.reference())'"
    )


def test_the_example_in_the_documentation_loads() -> None:
    page = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    example = page.split("```toml\n")[1].split("```")[0].replace("api_key_file = ", "# ")
    example = re.sub('secret_file = "[^"]*"', f"secret = '{'x' * 32}'", example)
    Mapper(loads(example).feeds["fx"].map)


AUTH = f"[auth]\nsecret = '{'s' * 32}'\n"


@pytest.mark.parametrize(
    ("text", "field", "says"),
    [
        ("[auth]\nsecret = 'short'", "auth.secret", "32 bytes"),
        ("[auth]\npublic_key = 'x'", "auth.public_key", "PEM"),
        ("[auth]\njwks = '{}'", "auth.jwks", "key set"),
        (AUTH + "jwks = '{}'", "auth.jwks", "secret is given too"),
        (AUTH + "algorithms = ['none']", "auth.algorithms[0]", "Invalid enum value"),
        (AUTH + "algorithms = ['ES256']", "auth.algorithms", "no key for ES256"),
        (AUTH + "algorithms = []", "auth.algorithms", "length >= 1"),
        (AUTH + "anonymous = true", "auth.anonymous", "secret is given"),
        ("[auth]\nissuer = 'a'", "auth.issuer", "no secret"),
        ("[server]\nhost = '0.0.0.0'", "server.host", "auth.anonymous = true"),
        ("[server]\nhost = 'localhost.evil.test'", "server.host", "auth.secret"),
    ],
)
def test_keys_are_checked_and_to_let_in_everybody_is_said_aloud(text: str, field: str, says: str) -> None:
    error = refused(text)
    assert (error.field or "").startswith(field.split("[")[0])
    assert says in error.message
    assert "s" * 32 not in str(error)


def test_an_address_for_others_needs_keys_or_the_word() -> None:
    for auth in (AUTH, "[auth]\nanonymous = true\n"):
        assert loads(auth + "[server]\nhost = '0.0.0.0'").auth
    # A reload cannot take the keys away and leave the address.
    old = loads(AUTH + "[server]\nhost = '0.0.0.0'")
    with pytest.raises(ConfigError, match="not a loopback"):
        config.reloaded(old, loads(""))
    assert "s" * 32 not in config.effective_toml(old)


def test_a_reload_keeps_what_it_does_not_take_of_a_table_that_it_takes() -> None:
    old, new = loads(""), loads("[delivery]\nuser_rate = 5\npacing = 0.5")
    assert config.needs_restart(old, new) == ["delivery.user_rate"]
    after = config.reloaded(old, new).delivery
    assert (after.user_rate, after.pacing) == (None, 0.5)


def test_needs_restart_names_what_a_reload_can_not_take() -> None:
    old = Config()
    new = loads(FEED + "[log]\nlevel = 'debug'\n[limits]\nconnections = 5\n[delivery]\npacing = 0")
    assert config.needs_restart(old, new) == []
    new = loads("[server]\nport = 1\nworkers = 2\n[history]\ntopic_idle = 1\n[stages.s]\nactor = 'a:B'")
    assert config.needs_restart(old, new) == ["server.port", "server.workers", "history.topic_idle", "stages.s"]


def test_the_configuration_is_frozen() -> None:
    with pytest.raises(AttributeError):
        Config().server.port = 1  # type: ignore[misc]


def test_defaults_of_the_machine() -> None:
    assert Server(workers=0).worker_count() == 0
    assert Server().worker_count() >= 1
    assert Server(node="n").node_name() == "n"
    assert Server().node_name()
    assert Server(port=5).runtime_path({"XDG_RUNTIME_DIR": "/run/user/7"}) == Path("/run/user/7/heliograph-5")
    assert Server(port=5).runtime_path({}).name == f"heliograph-{os.getuid()}-5"
    assert Server(runtime_dir="/r").runtime_path({}) == Path("/r")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_needs_no_key(host: str) -> None:
    assert Admin(host=host).api_key is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "127.evil.example", "example.com"])
def test_everything_else_needs_a_key(host: str) -> None:
    with pytest.raises(ConfigError, match="api_key"):
        Admin(host=host)
    assert Admin(host=host, api_key="k").api_key == "k"


def test_a_feed_from_python_is_checked_as_well() -> None:
    with pytest.raises(ConfigError, match="url"):
        Feed(url="")


names = st.text(min_size=1, max_size=8).filter(lambda name: "\x00" not in name)
scalars = st.one_of(st.booleans(), st.integers(-(2**63), 2**63 - 1), st.text(max_size=12), st.floats(allow_nan=False))
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3))


@given(st.dictionaries(names, values, max_size=4))
def test_what_is_written_as_toml_reads_the_same(table: dict[str, Any]) -> None:
    text = "".join(f"{toml_text.key(name)} = {toml_text.literal(value)}\n" for name, value in table.items())
    assert tomllib.loads(text) == table


def test_line_of_sees_through_strings_lists_and_dotted_names() -> None:
    text = (
        '# c\na.b = 1\n[t."x.y"]\ns = """\n[t.fake]\nk = 1\n"""\nl = [\n  1,\n]\nk = { deep = 1 }\n[[z.list]]\nq = 1\n'
    )
    lines = {f: toml_text.line_of(text, f) for f in ("a.b", "t.x.y", "t.x.y.s", "t.x.y.l", "t.x.y.k.deep", "z.list.q")}
    assert lines == {"a.b": 2, "t.x.y": 3, "t.x.y.s": 4, "t.x.y.l": 8, "t.x.y.k.deep": 11, "z.list.q": 13}
    assert toml_text.line_of(text, "t.fake.k") == 3
    text += (
        "[[z.list]]\nq = 2\n[[z.list.inner]]\n[[z.list.inner]]\nr = 1\n[z.list.inner.deep]\ns = 1\n[[z.list]]\nq = 3\n"
    )
    fields = ("z.list[0].q", "z.list[1].q", "z.list[1].inner[1].r", "z.list[1].inner[1].deep.s", "z.list[2].q")
    assert [toml_text.line_of(text, field) for field in fields] == [13, 15, 18, 20, 22]
    assert toml_text.line_of(text, "nowhere") is None
