"""``python -m fx.migrate``."""

from __future__ import annotations

from pathlib import Path

import pytest

from fx.by_hand import BAD_USAGE, FAILED
from fx.migrate import main
from fx.schema import MIGRATIONS


def test_it_says_what_it_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "engine.toml"
    dsn = f"sqlite:///{tmp_path}/fx.db"
    file.write_text(f'[services.prices]\nactor = "fx.store_service:StoreService"\noptions = {{ dsn = "{dsn}" }}\n')
    main(file)
    applied = "".join(f"applied {version}: {title}\n" for version, title, _ in MIGRATIONS)
    state = f"SqliteStore({tmp_path}/fx.db) is up to date\n"
    assert capsys.readouterr().out == applied + state
    main(dsn=dsn)
    assert capsys.readouterr().out == state


@pytest.mark.parametrize(
    ("config", "dsn", "code", "text"),
    [
        ("", None, BAD_USAGE, "fx.store_service:StoreService"),
        (None, None, BAD_USAGE, "engine.toml"),
        ("", "mysql://secret@db", BAD_USAGE, "dsn: sqlite:///FILE"),
        ("", "postgresql://fx:secret@127.0.0.1:1/db", FAILED, "127.0.0.1:1/db is away"),
    ],
)
def test_it_says_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], config: str | None, dsn: str | None, code: int, text: str
) -> None:
    file = tmp_path / "engine.toml"
    if config is not None:
        file.write_text(config)
    with pytest.raises(SystemExit) as ended:
        main(file, dsn)
    said = capsys.readouterr().err
    assert (ended.value.code, text in said, "secret" in said) == (code, True, False), said
