"""A process that has imported everything its children need and forks them from that image.

Why not :mod:`multiprocessing`'s: it pickles, imports ``__main__`` again in each child and starts a resource tracker.
This one is a fresh interpreter, executed (not forked) by the daemon, so that threads and loops of the daemon, or of the
application around an embedded engine, never matter. It imports :data:`HOT_MODULES`, freezes the collector, so that
forked pages stay shared, and then serves requests on a socket pair: frames of four bytes of length (big endian) and a
msgpack array.

    daemon                                            forkserver
    ["preload", [module, …]]                     ──►
                                                 ◄──  ["ready", pid]
    ["spawn", ref, role, name, argument bytes]   ──►
                                                 ◄──  ["spawned", ref, pid]
                                                 ◄──  ["exited", pid, code]    code as subprocess has it: -9 is SIGKILL
    ["ping"]                                     ──►
                                                 ◄──  ["pong"]

A child runs ``main(argument, parent_fd)`` of ``engine.<role>`` (a role with a dot names a module as it is).
``parent_fd`` reads the end of a pipe whose other end only the daemon has: at its end of file the daemon is dead and the
child has to go. What has not gone :data:`ORPHAN_TIMEOUT` after the daemon is killed.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
import selectors
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import msgspec

from transport.errors import ConfigError, HeliographError

HOT_MODULES = ("engine.hot",)
START_TIMEOUT = 30.0  # s, for the imports
ORPHAN_TIMEOUT = 4.5  # s; children are promised to be gone 5 s after the daemon
HEARTBEAT_INTERVAL, HEARTBEAT_TIMEOUT = 1.0, 5.0  # s
EXIT_FAILED, EXIT_CONFIG = 1, 2
EXIT_UNSEEN = 255  # of a child that outlived its forkserver: nobody was told how it ended

_UNTOLD = ("HELIOGRAPH_ADMIN__", "HELIOGRAPH_API_KEY")
"""Variables that only the daemon and commands need: children read what strangers send."""
_BOOT = "import sys; sys.path[:] = sys.argv[3:]; from engine.forkserver import serve; serve(*map(int, sys.argv[1:3]))"
_LENGTH = struct.Struct(">I")
_encode = msgspec.msgpack.encode
_decode = msgspec.msgpack.decode


def _framed(message: Sequence[Any]) -> bytes:
    body = _encode(message)
    return _LENGTH.pack(len(body)) + body


# in the forkserver ----------------------------------------------------------------------------------------------------


def serve(control_fd: int, parent_fd: int) -> NoReturn:
    """The forkserver's whole life; never returns."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it goes when the daemon goes
    _Server(socket.socket(fileno=control_fd), parent_fd).run()
    os._exit(0)  # not through the interpreter's end, which would touch (and copy) every page


class _Server:
    """Single-threaded; blocking reads are fine, as the daemon writes whole frames."""

    def __init__(self, sock: socket.socket, parent_fd: int) -> None:
        self._sock, self._parent_fd = sock, parent_fd
        self._children: set[int] = set()
        self._wake, self._signalled = socket.socketpair()
        for end in (self._wake, self._signalled):
            end.setblocking(False)
        self._selector = selectors.DefaultSelector()

    def run(self) -> None:
        request = self._receive()
        if request is None:
            return
        _preload(request[1])
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._signalled.fileno(), warn_on_full_buffer=False)
        self._selector.register(self._sock, selectors.EVENT_READ)
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._send("ready", os.getpid())
        while self._turn():
            pass
        self._bury()

    def _turn(self, timeout: float | None = None) -> bool:
        """Handle what there is; whether the daemon lives."""
        for key, _ in self._selector.select(timeout):
            if key.fileobj is self._wake:
                self._wake.recv(4096)
                self._reap()
            elif (request := self._receive()) is None:
                return False
            elif request[0] == "ping":
                self._send("pong")
            else:
                self._spawn(*request[1:])
        return True

    def _spawn(self, ref: int, role: str, name: str, argument: bytes) -> None:
        pid = os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self._selector.close()
            for sock in (self._sock, self._wake, self._signalled):
                sock.close()
            _be(role, name, argument, self._parent_fd)
        self._children.add(pid)
        self._send("spawned", ref, pid)

    def _reap(self) -> None:
        for pid in tuple(self._children):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                self._children.discard(pid)
                self._send("exited", pid, os.waitstatus_to_exitcode(status))

    def _bury(self) -> None:
        """The daemon is gone: its children see that themselves; kill who does not."""
        self._selector.unregister(self._sock)
        deadline = time.monotonic() + ORPHAN_TIMEOUT
        while self._children and (left := deadline - time.monotonic()) > 0:
            self._turn(left)
        for pid in self._children:
            os.kill(pid, signal.SIGKILL)
        for pid in self._children:
            os.waitpid(pid, 0)

    def _send(self, *message: Any) -> None:
        try:
            self._sock.sendall(_framed(message))
        except OSError:
            pass  # the daemon is gone, which the next read will show

    def _receive(self) -> list[Any] | None:
        try:
            head = self._exactly(_LENGTH.size)
            body = head and self._exactly(*_LENGTH.unpack(head))
        except OSError:
            return None
        return _decode(body, type=list[Any]) if body else None

    def _exactly(self, size: int) -> bytes:
        """``size`` bytes, or none at the end of file."""
        data = bytearray()
        while len(data) < size:
            chunk = self._sock.recv(size - len(data))
            if not chunk:
                return b""
            data += chunk
        return bytes(data)


def _preload(modules: Sequence[str]) -> None:
    gc.disable()
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError:
            pass  # the child that needs it will say so, where it can be seen whose error it is
    # Nor a collection before the freeze: it leaves holes, which children fill, copying the pages (0.5 MB in each).
    gc.freeze()


def _be(role: str, name: str, argument: bytes, parent_fd: int) -> NoReturn:
    """The rest of a child's life."""
    code = EXIT_FAILED
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # SIGINT and SIGHUP are for the daemon and stay ignored
        _set_title(f"helio-{name}")
        gc.enable()
        module = importlib.import_module(role if "." in role else f"engine.{role}")
        module.main(_decode(argument, type=dict[str, Any]), parent_fd)
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else EXIT_FAILED if error.code else 0
    except ConfigError as error:
        code = EXIT_CONFIG
        _log_failure(name, error, trace=False)
    except BaseException as error:
        _log_failure(name, error, trace=True)
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError, AttributeError):
                pass
        os._exit(code)


def _set_title(title: str) -> None:
    try:
        with open("/proc/self/comm", "w") as comm:  # 15 bytes, what `ps` and `top` show
            comm.write(title[:15])
    except OSError:
        pass  # not Linux


def _log_failure(name: str, error: BaseException, trace: bool) -> None:
    from engine.log import get_logger

    get_logger().critical("process_failed", name=name, error=str(error), exc_info=error if trace else None)


# in the daemon --------------------------------------------------------------------------------------------------------


class Forked(NamedTuple):
    """A child: its process id, and its exit code when it has one (negative: the signal that ended it)."""

    pid: int
    exit: asyncio.Future[int]


class ForkServer:
    """Owns the forkserver process; all on one loop.

    Should it die, its children live on and the next :meth:`spawn` starts another; one that hangs is killed. (Where
    there is no pidfd, on other systems than Linux, the children are killed and reported, too.)

    Args:
        inherit: descriptors that every child keeps open.
        preload: modules to import before the first fork; what cannot be imported is left to the child.
        heartbeat_interval: seconds between two questions whether it lives.
        heartbeat_timeout: seconds without an answer after which it is taken for hung.
    """

    def __init__(
        self,
        *,
        inherit: Sequence[int] = (),
        preload: Sequence[str] = HOT_MODULES,
        heartbeat_interval: float = HEARTBEAT_INTERVAL,
        heartbeat_timeout: float = HEARTBEAT_TIMEOUT,
    ) -> None:
        self._inherit, self._preload = tuple(inherit), tuple(preload)
        self._interval, self._patience = heartbeat_interval, heartbeat_timeout
        self._beat: asyncio.TimerHandle | None = None
        self._heard = 0.0  # loop time
        self._process: subprocess.Popen[bytes] | None = None
        self._starting = asyncio.Lock()
        self._spawned: dict[int, asyncio.Future[Forked]] = {}
        self._children: dict[int, Forked] = {}
        self._watched: dict[int, int] = {}  # pidfd by process id
        self._next_ref = 0
        # One for all forkservers: who waits for its end waits for this process's.
        self._parent_fd, self._life = -1, -1

    @property
    def pid(self) -> int | None:
        """The forkserver's own process id while it runs."""
        return self._process.pid if self._process else None

    async def start(self) -> None:
        """Execute it and wait until everything is imported; without effect while it runs.

        Raises:
            HeliographError: it cannot be executed, or is not ready after :data:`START_TIMEOUT`.
        """
        async with self._starting:
            if self._process is not None:
                return
            ours, theirs = socket.socketpair()
            if self._life < 0:
                self._parent_fd, self._life = os.pipe()
            command = [sys.executable, "-c", _BOOT, str(theirs.fileno()), str(self._parent_fd), *sys.path]
            try:
                self._process = subprocess.Popen(  # noqa: ASYNC220, S603 - returns once it is executed: a millisecond
                    command,
                    env={name: value for name, value in os.environ.items() if not name.upper().startswith(_UNTOLD)},
                    stdin=subprocess.DEVNULL,
                    stdout=2,  # stdout is for the daemon's ready line
                    pass_fds=(theirs.fileno(), self._parent_fd, *self._inherit),
                    start_new_session=True,  # a terminal's Ctrl-C is for the daemon alone
                )
            except OSError as error:
                ours.close()
                raise HeliographError(f"cannot execute {sys.executable}: {error.strerror}") from None
            finally:
                theirs.close()
            reader, self._writer = await asyncio.open_unix_connection(sock=ours)
            self._ready = asyncio.get_running_loop().create_future()
            self._reading = asyncio.create_task(self._read(reader), name="forkserver")
            self._writer.write(_framed(["preload", self._preload]))
            try:
                async with asyncio.timeout(START_TIMEOUT):
                    await asyncio.shield(self._ready)
            except TimeoutError:
                await self.close()
                raise HeliographError(f"the forkserver is not ready after {START_TIMEOUT:g} s") from None

    async def spawn(self, role: str, name: str, argument: Mapping[str, Any]) -> Forked:
        """Fork a child.

        Raises:
            HeliographError: the forkserver cannot be started, or died at it.
        """
        await self.start()
        self._next_ref += 1
        spawned: asyncio.Future[Forked] = asyncio.get_running_loop().create_future()
        self._spawned[self._next_ref] = spawned
        self._writer.write(_framed(["spawn", self._next_ref, role, name, _encode(argument)]))
        return await spawned

    async def close(self) -> None:
        """End it, and with it every child that is still there. Idempotent."""
        for child in tuple(self._children.values()):
            _kill(child.pid)
            self._ended(child, -signal.SIGKILL)
        if self._process is not None:
            self._writer.close()
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        if self._life >= 0:
            os.close(self._life)
            os.close(self._parent_fd)
            self._parent_fd = self._life = -1

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while True:
                (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
                self._on_message(*_decode(await reader.readexactly(length), type=list[Any]))
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            self._lost()

    def _on_message(self, kind: str, *fields: Any) -> None:
        self._heard = asyncio.get_running_loop().time()
        if kind == "ready":
            self._ready.set_result(None)
            self._ping(self._heard)
        elif kind == "spawned":
            ref, pid = fields
            child = self._children[pid] = Forked(pid, asyncio.get_running_loop().create_future())
            self._watch(pid)
            waiter = self._spawned.pop(ref)
            if waiter.cancelled():
                _kill(pid)  # nobody will ask for it
            else:
                waiter.set_result(child)
        elif kind == "exited":
            pid, code = fields
            if (ended := self._children.get(pid)) is not None:  # not yet closed
                self._ended(ended, code)

    def _watch(self, pid: int) -> None:
        """Hold on to a child in a way that does not need its parent."""
        try:
            self._watched[pid] = os.pidfd_open(pid)
        except (AttributeError, OSError):
            pass  # not Linux; or it has ended already, which its parent will say

    def _ended(self, child: Forked, code: int) -> None:
        self._children.pop(child.pid, None)
        descriptor = self._watched.pop(child.pid, None)
        if descriptor is not None:
            asyncio.get_running_loop().remove_reader(descriptor)
            os.close(descriptor)
        if not child.exit.done():
            child.exit.set_result(code)

    def _orphan_ended(self, child: Forked) -> None:
        try:
            pid, status = os.waitpid(child.pid, os.WNOHANG)  # ours to reap where we are process 1
            code = os.waitstatus_to_exitcode(status) if pid else EXIT_UNSEEN
        except ChildProcessError:
            code = EXIT_UNSEEN
        self._ended(child, code)

    def _ping(self, due: float) -> None:
        """Ask whether it lives, and look whether it has answered lately."""
        loop, process = asyncio.get_running_loop(), self._process
        if process is None:
            return
        now = loop.time()
        if now - due > self._interval:
            self._heard = now  # it was us who did not listen: its word may still wait in the socket
        if now - self._heard > self._patience:
            from engine.log import get_logger  # as below: children need it only when they fail

            get_logger().error("forkserver_hangs", child_pid=process.pid, silent=round(now - self._heard, 1))
            process.kill()  # and the end of its socket does the rest
            return
        self._writer.write(_framed(["ping"]))
        self._beat = loop.call_at(now + self._interval, self._ping, now + self._interval)

    def _lost(self) -> None:
        process, self._process = self._process, None
        assert process is not None
        self._writer.close()
        if self._beat is not None:
            self._beat.cancel()
        died = HeliographError("the forkserver died")
        for waiter in (*self._spawned.values(), self._ready):
            if not waiter.done():
                waiter.set_exception(died)
        self._spawned.clear()
        process.kill()  # it cannot tell any more what becomes of its children
        process.wait()
        for child in tuple(self._children.values()):
            descriptor = self._watched.get(child.pid)
            if descriptor is None:
                _kill(child.pid)
                self._ended(child, -signal.SIGKILL)
            else:
                asyncio.get_running_loop().add_reader(descriptor, self._orphan_ended, child)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
