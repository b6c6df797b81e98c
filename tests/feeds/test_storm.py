"""Feeds that go through every fault of the mock exchange; ``python -m bench.feed_storm`` is the same for longer."""

from __future__ import annotations

import uvloop

from bench.feed_storm import storm


def test_feeds_come_back_from_every_fault_without_loss_storm_or_leftovers() -> None:
    rows = uvloop.run(storm(feeds=6, seconds=10, phase_s=0.2))
    assert not [f"{row['feed']} ({row['kind']}): {row['wrong']}" for row in rows if not row["fine"]]
    assert all(row["attempts"] > 3 for row in rows)
    kinds = {kind for row in rows for kind in row["failures of"].split(",")}
    assert {"abnormal", "protocol", "refused", "throttled", "unauthorized"} <= kinds
