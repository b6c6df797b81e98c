"""Coverage-guided fuzzing of what strangers reach, with atheris: a finding is printed, the exit code is not 0.

python -m tests.fuzz TARGET|all [--seconds 60]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["actors", "transport", "websockets"]):
    from tests.fuzz.targets import SEEDS, TARGETS


def fuzz(name: str, seconds: int) -> None:
    """Does not return: libFuzzer ends the process."""
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(SEEDS.get(name, [])):
            Path(corpus, str(number)).write_bytes(seed)
        atheris.Setup([sys.argv[0], f"-max_total_time={seconds}", "-max_len=512", corpus], TARGETS[name])
        atheris.Fuzz()


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=[*TARGETS, "all"])
    parser.add_argument("--seconds", type=int, default=60, help="per target")
    options = parser.parse_args()
    if options.target != "all":
        fuzz(options.target, options.seconds)
    failed = []
    for name in TARGETS:
        print(f"== {name}", flush=True)
        command = [sys.executable, "-m", "tests.fuzz", name, "--seconds", str(options.seconds)]
        if subprocess.run(command, timeout=options.seconds + 60).returncode:
            failed.append(name)
    print(f"findings in {', '.join(failed)}" if failed else "no finding")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
