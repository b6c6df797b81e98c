"""A backtest that everybody can watch, stop, and kill: it goes on where it was.

heliograph run                              in one terminal
heliograph jobs                             in another
python examples/backtest_job.py             in a third; try kill -9, then start it again

Without an engine it runs just the same.
"""

import math
import sys
import time

from heliograph import progress

STAGES = {"load": 1, "backtest": 8, "analysis": 1}  # about how long each takes


def main(url: str | None = None, bars: int = 20_000, pause: float = 0.0005) -> float:
    with progress.job("backtest-17", stages=STAGES, url=url) as job:
        if job.resumed:
            print(f"attempt {job.attempt} goes on at {job.progress:.0%}")
        state = job.resumed or {"cash": 10_000.0, "position": 0, "trades": 0}

        prices = [100 + 10 * math.sin(i / 50) + i / 1_000 for i in job.track(range(bars), stage="load")]

        # A checkpoint after every 500 bars; a next life skips the bars that the last one has counted.
        for i in job.track(range(bars), stage="backtest", every=500, state=state):
            time.sleep(pause)  # your strategy's work
            trade(state, prices, i)
            job.message = f"{state['trades']} trades"

        with job.stage("analysis"):
            result = state["cash"] + state["position"] * prices[-1]
    return result


def trade(state: dict, prices: list[float], i: int) -> None:
    """Buys below the mean of the last hundred bars, sells above."""
    mean = sum(prices[max(0, i - 100) : i + 1]) / min(i + 1, 101)
    wanted = 10 if prices[i] < mean else 0
    if wanted != state["position"]:
        state["cash"] -= (wanted - state["position"]) * prices[i]
        state["position"] = wanted
        state["trades"] += 1


if __name__ == "__main__":
    try:
        print(f"worth {main(*sys.argv[1:2]):,.2f}")
    except progress.Cancelled as cancelled:
        sys.exit(f"stopped: {cancelled}")
