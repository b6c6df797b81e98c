"""What ``deploy/compose.yaml`` composes fits together. Needs no Docker."""

from __future__ import annotations

import subprocess
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml  # comes with pre-commit

from engine import config

ROOT = Path(__file__).parents[2]
COMPOSE = (ROOT / "deploy/compose.yaml").read_text(encoding="utf-8")


@pytest.fixture
def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(COMPOSE)["services"]
    return found


def test_the_composition_fits_together(services: dict[str, Any]) -> None:
    engine, nginx = services["engine"], services["nginx"]
    assert (ROOT / "deploy" / engine["build"]["context"] / engine["build"]["dockerfile"]).is_file()
    assert "ports" not in engine, "only nginx is published"
    assert all(port.startswith("127.0.0.1:") for port in nginx["ports"])
    for service in (engine, nginx):
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            assert not source.startswith(".") or (ROOT / "deploy" / source).is_file(), source
    assert engine["environment"]["HELIOGRAPH_CONFIG"] in [volume.split(":")[1] for volume in engine["volumes"]]
    loaded = config.load(ROOT / "deploy/compose.toml", environ={})
    assert urlsplit(loaded.redis.url or "").hostname in services
    seconds = float(engine["stop_grace_period"].removesuffix("s"))
    assert seconds > loaded.server.drain_timeout
    assert engine["ulimits"]["nofile"] > loaded.limits.connections


def test_the_composed_nginx_goes_to_the_engine(services: dict[str, Any], tmp_path: Path) -> None:
    shell, option, script = services["nginx"]["command"]
    shipped, rendered = ROOT / "deploy/nginx.conf", tmp_path / "nginx.conf"
    render = (
        script.partition(" && ")[0].replace("/heliograph.conf", str(shipped)).replace("/tmp/nginx.conf", str(rendered))
    )
    subprocess.run([shell, option, render], check=True, timeout=20)
    port = config.load(ROOT / "deploy/compose.toml", environ={}).server.port
    assert f"server engine:{port} " in rendered.read_text(encoding="utf-8")
    assert "127.0.0.1:" not in rendered.read_text(encoding="utf-8").replace("server.trusted_proxies", "")


def test_nginx_of_the_composition_is_trusted_and_nobody_else(services: dict[str, Any]) -> None:
    (network,) = yaml.safe_load(COMPOSE)["networks"]["inside"]["ipam"]["config"]
    subnet, others = IPv4Network(network["subnet"]), IPv4Network(network["ip_range"])
    (proxy,) = map(IPv4Network, config.load(ROOT / "deploy/compose.toml", environ={}).server.trusted_proxies)
    address = IPv4Address(services["nginx"]["networks"]["inside"]["ipv4_address"])
    assert proxy == IPv4Network(address)
    assert others.subnet_of(subnet)
    # Nor the gateway, the first address: Docker's own proxy comes from there with the requests of anybody.
    assert address in subnet
    assert address not in others
    assert address != subnet[1]
    assert services["engine"]["networks"] == ["inside"]
