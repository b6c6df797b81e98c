"""The commands of ``heliograph`` and their options. What they do is in the other ``cli_`` modules."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import msgspec
import typer

from engine import cli_admin, cli_client, cli_config, cli_explain, cli_run
from engine.client_subscription import SubscribeArguments
from engine.job_progress import topic_of
from engine.version import VERSION
from transport.codes import Priority
from transport.errors import RequestError
from transport.filters import Filter
from transport.position import Position
from transport.topics import check_pattern, check_topic

DEFAULT_URL, DEFAULT_ADMIN_URL = "ws://127.0.0.1:8765/ws", "http://127.0.0.1:8766"

app = typer.Typer(
    help="Real-time fan-out: events in, and out to everybody who subscribed.",
    epilog="Exit codes: 0 fine, 1 failed, 2 bad usage or configuration. `heliograph COMMAND --help` has examples.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


class FeedAction(StrEnum):
    """What an operator may do to a feed."""

    RESET = "reset"
    DISCONNECT = "disconnect"
    CONNECT = "connect"


class TargetKind(StrEnum):
    """What a server under load speaks."""

    NATIVE = "native"
    SOCKETIO = "socketio"
    PLAIN = "plain"


class Common(NamedTuple):
    """Where the engine is and who we are."""

    url: str
    admin_url: str
    token: str | None
    api_key: str | None

    def but(self, **given: str | None) -> Common:
        """With what the command itself was given."""
        return self._replace(**{name: value for name, value in given.items() if value is not None})


# Given before the command they may come from the environment, given behind it they win.
Url = Annotated[str | None, typer.Option("--url", metavar="ws://…", help=f"Engine [default: {DEFAULT_URL}]")]
AdminUrl = Annotated[
    str | None, typer.Option("--admin-url", metavar="http://…", help=f"Admin API [default: {DEFAULT_ADMIN_URL}]")
]
Token = Annotated[str | None, typer.Option("--token", help="Token of the client [env: HELIOGRAPH_TOKEN]")]
ApiKey = Annotated[str | None, typer.Option("--api-key", help="Key of the admin API [env: HELIOGRAPH_API_KEY]")]
LATER = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": ["--help"]}


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"heliograph {VERSION}")
        raise typer.Exit


@app.callback()
def common(
    ctx: typer.Context,
    url: Annotated[str, typer.Option(envvar="HELIOGRAPH_URL", metavar="ws://…", help="The engine.")] = DEFAULT_URL,
    admin_url: Annotated[
        str, typer.Option(envvar="HELIOGRAPH_ADMIN_URL", metavar="http://…", help="Its admin API.")
    ] = DEFAULT_ADMIN_URL,
    token: Annotated[str | None, typer.Option(envvar="HELIOGRAPH_TOKEN", help="Token of the client.")] = None,
    api_key: Annotated[str | None, typer.Option(envvar="HELIOGRAPH_API_KEY", help="Key of the admin API.")] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Real-time fan-out: events in, and out to everybody who subscribed."""
    ctx.obj = Common(url, admin_url, token, api_key)


@app.command(context_settings={**LATER, "help_option_names": []}, add_help_option=False)
def run(ctx: typer.Context) -> None:
    """Run the engine: `heliograph run --help`."""
    raise typer.Exit(cli_run.run(ctx.args))


@app.command()
def subscribe(
    ctx: typer.Context,
    topics: Annotated[list[str], typer.Argument(metavar="TOPIC…", help="'*' is one token, a final '>' the rest.")],
    where: Annotated[str | None, typer.Option(metavar="JSON", help="Only events that this filter lets pass.")] = None,
    count: Annotated[int | None, typer.Option(min=1, metavar="N", help="End after N events.")] = None,
    snapshot: Annotated[bool, typer.Option("--snapshot", help="First the last event of each topic.")] = False,
    conflate: Annotated[bool, typer.Option("--conflate", help="Of what waits, only the newest per key.")] = False,
    max_rate: Annotated[
        float | None, typer.Option("--max-rate", metavar="N", help="Events per second and key, the newest.")
    ] = None,
    group: Annotated[
        str | None, typer.Option(metavar="G", help="As a member of this consumer group: each event goes to one.")
    ] = None,
    ack: Annotated[bool, typer.Option("--ack", help="Acknowledge what is printed; for members of a group.")] = False,
    url: Url = None,
    token: Token = None,
) -> None:
    """Print events as NDJSON, one a line, until Ctrl-C.

    \b
    heliograph subscribe 'price.>'
    heliograph subscribe price.EUR_USD --snapshot --count 1
    heliograph subscribe 'price.*' --where '{"bid": {"gt": 1.2}}' | jq .data.bid
    heliograph subscribe 'price.*' --max-rate 2
    heliograph subscribe 'jobs.>' --group mailers --ack
    """
    for topic in topics:
        _checked(check_pattern, topic, "TOPIC")
    condition = None
    if where is not None:
        condition = _json(where, "--where")
        _checked(Filter.parse, condition, "--where")
    if max_rate is not None and max_rate <= 0:
        raise typer.BadParameter("must be above 0", param_hint="--max-rate")
    if ack and group is None:
        raise typer.BadParameter("only members of a group acknowledge: give --group, too", param_hint="--ack")
    options = SubscribeArguments(where=condition, snapshot=snapshot, conflate=conflate, max_rate=max_rate, group=group)
    me: Common = ctx.obj.but(url=url, token=token)
    raise typer.Exit(cli_client.subscribe(me.url, me.token, topics, options, count, ack))


@app.command()
def history(
    ctx: typer.Context,
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="Whose events; no wildcards.")],
    limit: Annotated[int, typer.Option(min=1, max=1_000, metavar="N", help="Events at most.")] = 100,
    since: Annotated[
        str | None, typer.Option(metavar="EPOCH:OFFSET", help="The first ones after this place, not the last ones.")
    ] = None,
    url: Url = None,
    token: Token = None,
) -> None:
    """Print events that the engine keeps of a topic as NDJSON, oldest first.

    \b
    heliograph history order.7
    heliograph history order.7 --limit 1000 | jq .data.state
    heliograph history order.7 --since 3f9c1a20:41     what came after an event with that epoch and offset
    """
    _checked(check_topic, topic, "TOPIC")
    place = None if since is None else _position(since, "--since")
    me: Common = ctx.obj.but(url=url, token=token)
    raise typer.Exit(cli_client.history(me.url, me.token, topic, limit, place))


@app.command()
def publish(
    ctx: typer.Context,
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="Where to; '-' takes it from each line of stdin.")],
    data: Annotated[str | None, typer.Argument(metavar="JSON", help="The data; '-' reads NDJSON from stdin.")] = None,
    kind: Annotated[str, typer.Option("--type", metavar="T", help="Kind of event.")] = "message",
    key: Annotated[str | None, typer.Option(metavar="K", help="What the event is about.")] = None,
    priority: Annotated[Priority | None, typer.Option(help="How urgent it is [default: medium].")] = None,
    url: Url = None,
    token: Token = None,
) -> None:
    """Publish one event, or many from stdin; prints the position of one as JSON.

    \b
    heliograph publish alert.test '{"level": 3}' --type alert
    cat lines.ndjson | heliograph publish chat.a -     each line is an event's data
    heliograph subscribe 'price.>' | heliograph --url ws://other:8765/ws publish -
    """
    me: Common = ctx.obj.but(url=url, token=token)
    if topic == "-" and data is None:
        raise typer.Exit(cli_client.publish_lines(me.url, me.token, None, kind, key, priority, sys.stdin.buffer))
    _checked(check_topic, topic, "TOPIC")
    if data is None:
        raise typer.BadParameter("is missing; '-' reads it from stdin", param_hint="JSON")
    if data == "-":
        raise typer.Exit(cli_client.publish_lines(me.url, me.token, topic, kind, key, priority, sys.stdin.buffer))
    _json(data, "JSON")
    raise typer.Exit(cli_client.publish(me.url, me.token, topic, data.encode(), kind, key, priority))


@app.command()
def call(
    ctx: typer.Context,
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="Who serves it is called; no wildcards.")],
    method: Annotated[str, typer.Argument(metavar="METHOD", help="What is called.")],
    params: Annotated[str | None, typer.Argument(metavar="[JSON]", help="What with [default: {}].")] = None,
    timeout: Annotated[float, typer.Option(min=0.001, metavar="S", help="Seconds to wait, 30 at most.")] = 30.0,
    url: Url = None,
    token: Token = None,
) -> None:
    """Call a method of a topic; prints the result as JSON.

    \b
    heliograph call progress.backtest-17 cancel '{"reason": "wrong parameters"}'
    heliograph call parameters.momentum get | jq .values
    """
    _checked(check_topic, topic, "TOPIC")
    if params is not None:
        _json(params, "JSON")
    from engine import cli_call

    me: Common = ctx.obj.but(url=url, token=token)
    payload = None if params is None else params.encode()
    raise typer.Exit(cli_call.call(me.url, me.token, topic, method, payload, timeout))


@app.command()
def stats(
    ctx: typer.Context,
    watch: Annotated[bool, typer.Option("--watch", help="Again and again, until Ctrl-C.")] = False,
    interval: Annotated[float, typer.Option(min=0.1, metavar="S", help="Seconds between two looks.")] = 2.0,
    as_json: Annotated[bool, typer.Option("--json", help="JSON, one line a look.")] = False,
    admin_url: AdminUrl = None,
    api_key: ApiKey = None,
) -> None:
    """Show the running engine at a glance.

    \b
    heliograph stats --watch
    heliograph stats --json | jq .connections
    """
    me: Common = ctx.obj.but(admin_url=admin_url, api_key=api_key)
    raise typer.Exit(cli_admin.stats(me.admin_url, me.api_key, interval if watch else None, as_json))


@app.command()
def explain(
    ctx: typer.Context,
    topic: Annotated[str, typer.Argument(metavar="TOPIC", help="Where the event would be published.")],
    data: Annotated[str, typer.Argument(metavar="JSON", help="Its data.")],
    kind: Annotated[str, typer.Option("--type", metavar="T", help="Kind of event.")] = "message",
    key: Annotated[str | None, typer.Option(metavar="K", help="What the event is about.")] = None,
    session: Annotated[
        str | None, typer.Option(metavar="ID", help="This session alone, whatever it subscribes to.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1_000, metavar="N", help="Sessions shown at most.")] = 100,
    admin_url: AdminUrl = None,
    api_key: ApiKey = None,
) -> None:
    """Tell who would receive an event, and which clause keeps it from whom; publishes nothing.

    \b
    heliograph explain price.EUR_USD '{"bid": 1.12}'
    heliograph explain alert.x '{"tier": "daily"}' --type alert --session 3xq1pVJ2Lc1y
    heliograph explain price.EUR_USD '{"bid": 1.12}' | jq -r 'select(.receives == false) | .because'
    """
    _checked(check_topic, topic, "TOPIC")
    _json(data, "JSON")
    event = {"topic": topic, "data": msgspec.Raw(data.encode()), "type": kind, "limit": limit}
    event |= {name: value for name, value in (("key", key), ("session", session)) if value is not None}
    me: Common = ctx.obj.but(admin_url=admin_url, api_key=api_key)
    raise typer.Exit(cli_explain.explain(me.admin_url, me.api_key, event))


@app.command()
def reload(
    ctx: typer.Context,
    restart: Annotated[
        bool, typer.Option("--restart", help="Then replace the workers; their clients reconnect once.")
    ] = False,
    admin_url: AdminUrl = None,
    api_key: ApiKey = None,
) -> None:
    """Make the running engine read its configuration again."""
    me: Common = ctx.obj.but(admin_url=admin_url, api_key=api_key)
    code = cli_admin.reload(me.admin_url, me.api_key)
    raise typer.Exit(cli_admin.restart(me.admin_url, me.api_key) if restart else code)


@app.command()
def feed(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of the feed, see heliograph stats.")],
    action: Annotated[FeedAction, typer.Argument(help="What to do.")],
    admin_url: AdminUrl = None,
    api_key: ApiKey = None,
) -> None:
    """Reset, disconnect or connect a feed of the running engine.

    \b
    heliograph feed fx disconnect   # and it stays so, until
    heliograph feed fx connect
    heliograph feed fx reset        # forget its failures and try now
    """
    me: Common = ctx.obj.but(admin_url=admin_url, api_key=api_key)
    raise typer.Exit(cli_admin.feed(me.admin_url, me.api_key, name, action.value))


@app.command()
def config(
    file: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="TOML [env: HELIOGRAPH_CONFIG].")
    ] = None,
    defaults: Annotated[bool, typer.Option("--defaults", help="The commented default configuration.")] = False,
) -> None:
    """Print the effective configuration as TOML, secrets masked.

    \b
    heliograph config --defaults > heliograph.toml
    """
    raise typer.Exit(cli_config.show(file, defaults))


@app.command("check-config")
def check_config(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="TOML configuration.")],
    sample: Annotated[
        tuple[str, Path] | None,
        typer.Option(metavar="FEED FILE", help="Also map recorded messages of FEED, one a line, and print the events."),
    ] = None,
) -> None:
    """Check a configuration; errors name the field and the line.

    \b
    heliograph check-config heliograph.toml
    heliograph check-config heliograph.toml --sample fx messages.ndjson
    """
    raise typer.Exit(cli_config.check(file, sample))


@app.command()
def replay(
    files: Annotated[list[Path] | None, typer.Argument(metavar="[FILE]…", help="CSV [default: packaged].")] = None,
    speed: Annotated[str, typer.Option(metavar="X", help="Recorded seconds per second, or 'demo'.")] = "1",
    loop: Annotated[bool, typer.Option("--loop", help="Begin anew at the end.")] = False,
    host: Annotated[str, typer.Option(help="Address to serve at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to serve at; 0 picks a free one.")] = 8767,
) -> None:
    """Run the replay exchange alone: a WebSocket server that plays recorded ticks.

    \b
    heliograph replay --speed demo --loop
    heliograph replay ticks.csv --speed 10 --port 0
    """
    from engine.cli_replay import replay as play  # the server's libraries are for this command only

    raise typer.Exit(play(files or [], host, port, speed, loop))


@app.command()
def token(
    user: Annotated[str, typer.Option("--user", metavar="U", help="Whose token it is.")],
    subscribe: Annotated[
        list[str] | None, typer.Option("--subscribe", metavar="PATTERN", help="May read this; repeatable.")
    ] = None,
    publish: Annotated[
        list[str] | None, typer.Option("--publish", metavar="PATTERN", help="May publish on this; repeatable.")
    ] = None,
    call: Annotated[
        list[str] | None, typer.Option("--call", metavar="PATTERN", help="May call methods of this; repeatable.")
    ] = None,
    ttl: Annotated[float, typer.Option(min=1, metavar="S", help="Seconds until it expires.")] = 3600,
    file: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="Its auth.secret signs [env: HELIOGRAPH_CONFIG].")
    ] = None,
    secret_file: Annotated[
        Path | None, typer.Option("--secret-file", metavar="FILE", help="Or the secret in this file does.")
    ] = None,
) -> None:
    """Mint a token for development; prints it.

    \b
    heliograph token --user alice --subscribe 'price.>' --publish chat.a --config heliograph.toml
    HELIOGRAPH_TOKEN=$(heliograph token --user alice --subscribe '>' --secret-file key) heliograph subscribe '>'
    """
    from engine import cli_token

    for name, patterns in (("--subscribe", subscribe), ("--publish", publish), ("--call", call)):
        for pattern in patterns or ():
            _checked(check_pattern, pattern, name)
    raise typer.Exit(cli_token.token(user, subscribe or [], publish or [], call or [], ttl, file, secret_file))


@app.command()
def jobs(
    ctx: typer.Context,
    watch: Annotated[
        bool | None, typer.Option("--watch/--once", help="Until Ctrl-C, or once [default: watch on a terminal].")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The events as NDJSON, one a line.")] = False,
    cancel: Annotated[str | None, typer.Option("--cancel", metavar="NAME", help="Ask this job to stop.")] = None,
    reason: Annotated[str | None, typer.Option("--reason", metavar="TEXT", help="Why; the job sees it.")] = None,
    url: Url = None,
    token: Token = None,
) -> None:
    """Show how far jobs are; see docs/progress.md for jobs of your own.

    \b
    heliograph jobs
    heliograph jobs --once --json | jq '.data | {job, state, progress}'
    heliograph jobs --cancel backtest-17 --reason "wrong parameters"
    """
    from engine import cli_jobs

    me: Common = ctx.obj.but(url=url, token=token)
    if cancel is not None:
        _checked(topic_of, cancel, "--cancel")
        raise typer.Exit(cli_jobs.cancel(me.url, me.token, cancel, reason))
    if reason is not None:
        raise typer.BadParameter("goes with --cancel", param_hint="--reason")
    live = sys.stdout.isatty() and not as_json if watch is None else watch
    raise typer.Exit((cli_jobs.watch if live else cli_jobs.show)(me.url, me.token, as_json))


@app.command()
def loadtest(
    ctx: typer.Context,
    scenario: Annotated[
        str, typer.Argument(metavar="SCENARIO", help="light, medium, heavy, a TOML file; or: compare A.json B.json")
    ],
    reports: Annotated[list[Path] | None, typer.Argument(metavar="[A B]", help="The reports to compare.")] = None,
    kind: Annotated[
        TargetKind | None, typer.Option(help="What the server speaks [default: native, this engine's protocol].")
    ] = None,
    subscribe: Annotated[
        str | None, typer.Option(metavar="TEXT", help="plain: the message that subscribes, with {topic}.")
    ] = None,
    publish: Annotated[
        str | None, typer.Option(metavar="TEXT", help="plain: a published message, with {data}, perhaps {topic}.")
    ] = None,
    connections: Annotated[int | None, typer.Option(min=1, metavar="N", help="Instead of the scenario's.")] = None,
    rate: Annotated[float | None, typer.Option(metavar="R", help="Messages per second, likewise.")] = None,
    seconds: Annotated[float | None, typer.Option(metavar="S", help="All phases together, likewise.")] = None,
    time_scale: Annotated[
        float, typer.Option("--time-scale", metavar="X", help="X times as long: 0.1 for a quick look.")
    ] = 1.0,
    start: Annotated[bool, typer.Option("--start", help="Start an engine for it, and stop it afterwards.")] = False,
    workers: Annotated[
        int | None, typer.Option(min=0, max=256, metavar="N", help="Workers of that engine [default: 1].")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the report as JSON.")] = None,
    html_file: Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write it as a web page.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress; only the verdict and what failed.")] = False,
    url: Url = None,
    admin_url: AdminUrl = None,
    token: Token = None,
) -> None:
    """Put load on a WebSocket server and judge how it took it: see docs/loadtest.md.

    \b
    heliograph loadtest light --start
    heliograph loadtest heavy --time-scale 0.1 --url ws://127.0.0.1:8765/ws --html report.html
    heliograph loadtest light --kind plain --url ws://127.0.0.1:9000/ --subscribe 'SUB {topic}' \\
        --publish 'PUB {topic} {data}'
    heliograph loadtest mine.toml --json after.json && heliograph loadtest compare before.json after.json

    Exit code 0: passed, 1: failed, or invalid because the load client was too slow.
    """
    from engine import cli_loadtest

    if scenario == "compare":
        if reports is None or len(reports) != 2:
            raise typer.BadParameter("needs two reports: compare A.json B.json", param_hint="[A B]")
        raise typer.Exit(cli_loadtest.compare(reports[0], reports[1], html_file))
    if reports:
        raise typer.BadParameter("go with compare only", param_hint="[A B]")
    if workers is not None and not start:
        raise typer.BadParameter("goes with --start", param_hint="--workers")
    if start and (url, admin_url) != (None, None):
        raise typer.BadParameter("starts an engine of its own; leave out --url and --admin-url", param_hint="--start")
    me: Common = ctx.obj.but(url=url, admin_url=admin_url, token=token)
    given = {
        "target.url": url or _unless_default(ctx, "url", me.url),
        "target.admin_url": admin_url or _unless_default(ctx, "admin_url", me.admin_url),
        "target.token": me.token,
        "target.kind": None if kind is None else kind.value,
        "target.subscribe": subscribe,
        "target.publish": publish,
        "connections": connections,
        "rate": rate,
        "seconds": seconds,
    }
    start_workers = (1 if workers is None else workers) if start else None
    raise typer.Exit(cli_loadtest.run(scenario, given, time_scale, start_workers, json_file, html_file, quiet))


def _unless_default(ctx: typer.Context, name: str, value: str) -> str | None:
    """What was given before the command, or by the environment; a scenario may say something else than the default."""
    assert ctx.parent is not None, "it is a command of the app"
    source = ctx.parent.get_parameter_source(name)
    return None if source is None or source.name == "DEFAULT" else value


def _checked(check: Any, given: Any, name: str) -> None:
    try:
        check(given)
    except RequestError as error:
        inside = f"{error.field}: " if "." in (error.field or "") else ""  # a filter's
        raise typer.BadParameter(f"{inside}{error.message}", param_hint=name) from None


def _position(text: str, name: str) -> Position:
    epoch, colon, offset = text.rpartition(":")
    try:
        if colon:
            return msgspec.convert({"epoch": epoch, "offset": int(offset)}, Position)
    except ValueError:  # msgspec's is one, too
        pass
    raise typer.BadParameter("must be EPOCH:OFFSET, as an event has them", param_hint=name)


def _json(text: str, name: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise typer.BadParameter(f"not JSON: {error}", param_hint=name) from None
