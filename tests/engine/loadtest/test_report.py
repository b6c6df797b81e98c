from __future__ import annotations

from pathlib import Path

import pytest

from engine.loadtest.judging import judged
from engine.loadtest.report import from_json, read
from tests.engine.loadtest.sample_report import good
from transport.errors import ConfigError


def test_a_report_survives_its_file(tmp_path: Path) -> None:
    report = judged(good())
    file = tmp_path / "report.json"
    file.write_bytes(report.to_json())
    assert read(file) == report
    assert file.read_text().startswith('{\n "version": 1,\n')


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (b"{", "is no report of a load test"),
        (b"[]", "is no report of a load test"),
        (b'{"version": 1}', "is no report of a load test: Object missing required field `name`"),
        (b'{"version": 2}', "is a report of version 2; this heliograph reads version 1"),
    ],
)
def test_what_is_no_report_is_refused_by_the_name_of_its_file(tmp_path: Path, text: bytes, error: str) -> None:
    with pytest.raises(ConfigError, match=r"^is "):
        from_json(text)
    file = tmp_path / "x.json"
    file.write_bytes(text)
    with pytest.raises(ConfigError) as refused:
        read(file)
    assert str(refused.value).startswith(f"{file} {error}")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*nowhere.json: No such file"):
        read(tmp_path / "nowhere.json")
