"""The query of ``GET /api/series``."""

from __future__ import annotations

import pytest
from starlette.datastructures import QueryParams

from engine.admin_series import MAX_POINTS, NAMES, Asked, asked
from transport.errors import RequestError

NOW = 1_700_000_000.0


def test_the_last_intervals_unless_said_otherwise() -> None:
    assert asked(QueryParams("name=a&name=b&name=a"), 2.0, NOW) == Asked(["a", "b"], NOW - 600, NOW, 300)
    assert asked(QueryParams("name=a&points=10&to=1000"), 1.0, NOW) == Asked(["a"], 990.0, 1_000.0, 10)
    assert asked(QueryParams("name=a&to=5"), 1.0, NOW).start == 0.0
    assert asked(QueryParams("name=a&from=10.5&to=10.5&points=1"), 1.0, NOW) == Asked(["a"], 10.5, 10.5, 1)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("points=3", "name"),
        ("&".join(f"name={i}" for i in range(NAMES + 1)), "name"),
        ("name=a&points=0", "points"),
        (f"name=a&points={MAX_POINTS + 1}", "points"),
        ("name=a&points=2.5", "points"),
        ("name=a&points=nan", "points"),
        ("name=a&points=ten", "points"),
        ("name=a&from=nan", "from"),
        ("name=a&from=-1", "from"),
        ("name=a&from=yesterday", "from"),
        ("name=a&from=5&to=4", "from"),
        ("name=a&to=1700000000000", "to"),
        ("name=a&to=1&to=2", "to"),
        ("name=a&since=1", "since"),
    ],
)
def test_what_is_wrong_is_named(query: str, field: str) -> None:
    with pytest.raises(RequestError) as caught:
        asked(QueryParams(query), 1.0, NOW)
    assert (caught.value.code, caught.value.field) == ("bad_request", field)
