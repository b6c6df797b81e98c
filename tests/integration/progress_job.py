"""A job for tests, as a program: NAME, DIRECTORY, URL; a line on stdout per item it does."""

from __future__ import annotations

import sys
import time

from heliograph import progress

ITEMS, PER_CHECKPOINT = 400, 20


def main(name: str, directory: str, url: str) -> None:
    """Each item takes 2 ms at least, so that somebody can watch."""
    with progress.job(name, stages={"load": 1, "work": 9}, directory=directory, url=url) as job:
        state = job.resumed or {"sum": 0}
        for _ in job.track(range(10), "load", every=10):
            pass
        for item in job.track(range(ITEMS), "work", every=PER_CHECKPOINT, state=state):
            time.sleep(0.002)
            state["sum"] += item
            print(item, flush=True)
    print("sum", state["sum"], flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
