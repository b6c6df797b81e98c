"""``docs/deployment.md`` says what is so: its commands run, its numbers are those of the files in ``deploy/``."""

from __future__ import annotations

import configparser
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from engine import config
from engine.descriptors import HEADROOM
from transport.errors import ConfigError

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs/deployment.md").read_text(encoding="utf-8")
UNIT = (ROOT / "deploy/heliograph.service").read_text(encoding="utf-8")
DEFAULT = config.Config()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", GUIDE, re.M | re.S)


def commands() -> list[list[str]]:
    """Of the shell snippets, without comments, continued lines joined."""
    text = "".join(blocks("sh")).replace("\\\n", " ")
    return [shlex.split(line, comments=True) for line in text.splitlines()]


def setting(name: str) -> str:
    return re.findall(rf"^{name}=(.*)$", UNIT, re.M)[-1]


def test_the_configuration_can_be_used() -> None:
    (toml,) = blocks("toml")
    server = config.loads(toml).server
    assert (server.host, server.trusted_proxies) == (DEFAULT.server.host, ("127.0.0.1/32",))


def test_the_default_configuration_is_made_and_checked_as_shown(tmp_path: Path) -> None:
    program = "/opt/heliograph/bin/heliograph"
    here = tmp_path / "heliograph.toml"
    ours = [command for command in commands() if command[0] == program]
    assert [command[1] for command in ours] == ["config", "check-config"]
    for command in ours:
        line = [word.replace("/etc/heliograph/heliograph.toml", str(here)) for word in command[1:]]
        redirected = line.index(">") if ">" in line else len(line)
        done = subprocess.run([sys.executable, "-m", "engine", *line[:redirected]], cwd=ROOT, capture_output=True)
        assert done.returncode == 0, done.stderr
        if redirected < len(line):
            Path(line[redirected + 1]).write_bytes(done.stdout)


def test_files_that_commands_name_are_there() -> None:
    named = {word for command in commands() for word in command if word.startswith("deploy/")}
    assert named == {"deploy/heliograph.service", "deploy/nginx.conf", "deploy/Dockerfile", "deploy/compose.yaml"}
    assert all((ROOT / name).is_file() for name in named)


def test_the_container_is_configured_as_shown() -> None:
    (run,) = (command for command in commands() if command[:2] == ["docker", "run"])
    environ = dict(word.split("=", 1) for word in run if word.startswith("HELIOGRAPH_"))
    assert config.load(environ=environ).server.host == "0.0.0.0"
    assert run[run.index("-p") + 1].endswith(f":{DEFAULT.server.port}")
    without = {name: value for name, value in environ.items() if "ANONYMOUS" not in name}
    with pytest.raises(ConfigError, match="anonymous"):
        config.load(environ=without)


def test_the_account_is_the_units() -> None:
    (useradd,) = (command for command in commands() if command[0] == "useradd")
    assert useradd[-1] == setting("User") == setting("Group")


@pytest.mark.parametrize(
    ("said", "value"),
    [
        (r"`server\.drain_timeout` \((\d+) s\)", DEFAULT.server.drain_timeout),
        (r"`server\.drain_spread` \((\d+) s\)", DEFAULT.server.drain_spread),
        (r"the unit waits (\d+) s before", setting("TimeoutStopSec")),
        (r"tells systemd every (\d+) s", int(setting("WatchdogSec")) / 2),
        (r"noticed after (\d+) s", setting("WatchdogSec")),
        (r"`server\.heartbeat_timeout` \((\d+) s\)", DEFAULT.server.heartbeat_timeout),
        (r"pings after (\d+) s", DEFAULT.delivery.ping_interval),
        (r"and waits (\d+) s; nginx", DEFAULT.delivery.ping_timeout),
        (r"less than `limits\.connections` and (\d+) more", HEADROOM),
        (r"`LimitNOFILE=(\d+)`", setting("LimitNOFILE")),
        (r"port of the machine: .* at most ([\d,]+)", 65_535 - 1_024 + 1),
    ],
)
def test_numbers_are_those_of_the_files(said: str, value: float | str) -> None:
    (found,) = re.findall(said, GUIDE)
    assert float(found.replace(",", "")) == float(value)


def test_the_kernels_settings_are_settings() -> None:
    parser = configparser.ConfigParser()
    parser.read_string("[all]\n" + "".join(blocks("ini")))
    for name in parser["all"]:
        assert sys.platform != "linux" or Path("/proc/sys", *name.split(".")).exists(), name


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)h][^)]*)\)", GUIDE))))
def test_a_link_leads_somewhere(link: str) -> None:
    file, _, anchor = link.partition("#")
    assert (ROOT / "docs" / file).exists()
    if anchor:
        heads = re.findall(r"^#+ (.*)$", (ROOT / "docs" / file).read_text(encoding="utf-8"), re.M)
        assert anchor in [re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads]
