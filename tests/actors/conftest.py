"""What holds for all tests of actors."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from actors import audience


@pytest.fixture(scope="module", autouse=True)
def small_cohorts() -> Iterator[None]:
    """So that a handful of sessions is in several of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(audience, "COHORT", 2)
        yield
