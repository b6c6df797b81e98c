import pytest

from transport.pacing import REST_CAP, Pacer


def test_an_idle_pacer_flushes_at_once() -> None:
    assert Pacer().delay(now=100.0) == 0


def test_it_rests_half_as_long_as_the_last_flush_took() -> None:
    pacer = Pacer()
    pacer.flushed(began=1.0, ended=1.004, batch=1)
    assert pacer.delay(1.004) == pytest.approx(0.002)
    assert pacer.delay(1.1) == 0


@pytest.mark.parametrize("batch", [2, 500])
def test_it_rests_twice_as_long_where_events_went_together(batch: int) -> None:
    pacer = Pacer(factor=1.5)
    pacer.flushed(began=1.0, ended=1.002, batch=batch)
    assert pacer.delay(1.002) == pytest.approx(0.006)


def test_the_rest_is_capped() -> None:
    pacer = Pacer()
    pacer.flushed(began=1.0, ended=2.0, batch=1)
    assert pacer.delay(2.0) == pytest.approx(REST_CAP)


def test_greedy_never_rests_and_an_interval_counts_from_the_beginning() -> None:
    greedy, fixed = Pacer(0.0), Pacer(0.05)
    for pacer in (greedy, fixed):
        pacer.flushed(began=1.0, ended=1.02, batch=9)
    assert greedy.delay(1.02) == 0
    assert fixed.delay(1.02) == pytest.approx(0.03)
