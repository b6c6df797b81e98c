"""``docs/security.md`` says what is so."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm
from typer.testing import CliRunner

from actors.authenticator import Authenticator, shared_key
from actors.identity import grants
from engine import config
from engine.cli_commands import app

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs/security.md").read_text(encoding="utf-8")
SECRET = "a secret that has at least 32 bytes"


def snippets(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", GUIDE, re.M | re.S)


def test_the_keys_can_be_configured(tmp_path: Path) -> None:
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    jwk = ECAlgorithm.to_jwk(public, as_dict=True)
    contents = {
        "secret_file": SECRET,
        "public_key_file": public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(),
        "jwks_file": json.dumps({"keys": [{**jwk, "kid": "a"}]}),
    }
    tables = [text for text in snippets("toml") if "[auth]" in text]
    assert len(tables) == 3
    for table in tables:
        (name,) = [name for name in contents if name in table]
        file = tmp_path / name
        file.write_text(contents[name])
        assert config.loads(re.sub(rf'{name} = "[^"]*"', f'{name} = "{file}"', table)).auth.required


def test_the_claims_are_understood() -> None:
    (claims,) = [json.loads(text) for text in snippets("json")]
    allowed = grants(claims["heliograph"])
    assert allowed.subscribe.allow("alert.>")
    assert not allowed.subscribe.allow(">")
    assert allowed.presence.allow("chat.a")


def test_a_token_is_minted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = [text.strip() for text in snippets("sh") if text.startswith("heliograph token")]
    monkeypatch.chdir(tmp_path)
    Path("heliograph.toml").write_text(f'[auth]\nsecret = "{SECRET}"\naudience = "desk"\n')
    result = CliRunner().invoke(app, shlex.split(line)[1:])
    assert result.exit_code == 0, result.output
    authenticator = Authenticator([shared_key(SECRET)], audience="desk")
    found = authenticator.identify(result.stdout.strip(), 0.0)
    assert (found.user, found.may_subscribe("price.>"), found.grants.publish.allow("chat.a")) == ("alice", True, True)
