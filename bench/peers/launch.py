"""A server that is a program of its own, without a ready line: it is started, announced, and ended at SIGTERM."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence

READY_TIMEOUT = 20.0  # s
POLL = 0.02  # s
ANSWER_TIMEOUT = 1.0  # s


def launch(command: Sequence[str], port: Callable[[], int | None], environment: Mapping[str, str] | None = None) -> int:
    """Run it until SIGTERM or its end; its exit status. ``port`` says where it listens, as soon as that is known; the
    ready line is printed when it answers.
    """
    process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=sys.stderr)
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        deadline = time.monotonic() + READY_TIMEOUT
        while (found := port()) is None or not answers(found):
            if process.poll() is not None or time.monotonic() > deadline:
                return 1
            time.sleep(POLL)
        print(f"ready ws://127.0.0.1:{found}/", flush=True)
        return process.wait()
    finally:
        process.kill()
        process.wait()


def answers(port: int) -> bool:
    """Whether HTTP is answered there.

    To listen is not enough: nginx does before the process is there whose CPU is to be measured.
    """
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=ANSWER_TIMEOUT) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            return sock.recv(1) != b""
    except OSError:
        return False
