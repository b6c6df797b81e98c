from __future__ import annotations

import pytest

from engine.loadtest.client_load import ClientLoad


def test_a_process_is_busy_where_it_needs_more_than_nine_tenths_of_a_core() -> None:
    load = ClientLoad("client-0", 17)
    for cpu in (0.2, 0.9, 0.91, 1.0):
        load.add(cpu, 100 * cpu)
    told = load.told()
    assert (told.name, told.pid) == ("client-0", 17)
    assert told.cpu_mean == pytest.approx(75.25)
    assert told.cpu_peak == 100.0
    assert told.busy == 0.5
    assert (told.late, told.lag_worst_ms) == (0.75, 100.0)
    assert told.lag_p99_ms == pytest.approx(100.0, rel=0.01)


def test_a_process_that_told_nothing_was_not_busy() -> None:
    told = ClientLoad("publisher", 18).told()
    assert (told.cpu_mean, told.cpu_peak, told.busy, told.lag_p99_ms) == (0, 0, 0, 0)
