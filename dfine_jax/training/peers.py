"""How the processes of one training notice each other's end.

JAX notices it, too, but only after a while, or by aborting with a trace of its C++ code. Here every process holds a
connection to process 0, which the system closes when one of the two ends, however that happens.
"""

import os
import secrets
import select
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

CONNECT_SECONDS = 30.0
OWN_END_SECONDS = 5.0
"""A process that ends for a reason of its own has so long to say it, after the end of another one was noticed."""
KEEP_ALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}
"""A machine that is gone closes nothing: it is asked after 10 silent seconds, then every 5, and given up after 30."""
NAME_BYTES, TOKEN_BYTES = 256, 16
BYE = b"bye"
ENDED = b"\0"
"""Begins what ``native_errors.py`` is told to print last."""


class Peers:
    """The connections of this process, and a thread that ends it when one of them does."""

    def __init__(self, coordinator_host: str | None):
        """All processes must call it together. Without a ``coordinator_host`` process 0 tells its name."""
        self._index, self._count = jax.process_index(), jax.process_count()
        self._sockets: dict[socket.socket, int] = {}
        self._wake, self._woken = socket.socketpair()
        host = coordinator_host or socket.gethostname()
        server, token, port = None, secrets.token_bytes(TOKEN_BYTES), 0
        if self._index == 0:
            server = _listen(host)
            port = server.getsockname()[1]
        told = struct.pack(f"!H{TOKEN_BYTES}s{NAME_BYTES}s", port, token, host.encode()[:NAME_BYTES])
        told = np.asarray(multihost_utils.broadcast_one_to_all(np.frombuffer(told, np.uint8)), np.uint8).tobytes()
        port, token, name = struct.unpack(f"!H{TOKEN_BYTES}s{NAME_BYTES}s", told)
        if server is not None:
            self._accept(server, token)
        else:
            self._connect(coordinator_host or name.rstrip(b"\0").decode(), port, token)
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def leave(self) -> None:
        """Says goodbye: from now on the others' end is none of this process's business, and its end none of theirs."""
        for connection in self._sockets:
            try:
                connection.sendall(BYE)
            except OSError:
                continue
        self.close()

    def close(self) -> None:
        """Without a goodbye: the others end, too."""
        self._wake.send(b"x")
        self._thread.join()
        for connection in self._sockets:
            connection.close()

    def _accept(self, server: socket.socket, token: bytes) -> None:
        """The connections of all other processes; of those that don't come within the time nothing is noticed."""
        server.settimeout(CONNECT_SECONDS)
        while len(self._sockets) < self._count - 1:
            try:
                connection, _ = server.accept()
            except TimeoutError:
                break
            connection.settimeout(CONNECT_SECONDS)
            try:
                greeting = _receive(connection, TOKEN_BYTES + 4)
            except OSError:
                greeting = b""
            if greeting[:TOKEN_BYTES] == token:
                self._sockets[connection] = struct.unpack("!I", greeting[TOKEN_BYTES:])[0]
                _keep_alive(connection)
            else:  # nobody of ours
                connection.close()
        server.close()

    def _connect(self, host: str, port: int, token: bytes) -> None:
        try:
            connection = socket.create_connection((host.strip("[]"), port), CONNECT_SECONDS)
            connection.sendall(token + struct.pack("!I", self._index))
        except OSError as error:
            sys.stderr.write(
                f"dfine train: can't reach process 0 at {host}:{port} ({error}): should another process end, this one "
                "will notice it late\n"
            )
            return
        self._sockets[connection] = 0
        _keep_alive(connection)

    def _watch(self) -> None:
        watched = dict(self._sockets)
        while watched:
            ready, _, _ = select.select([self._woken, *watched], [], [])
            for connection in ready:
                if connection is self._woken:
                    return
                try:
                    received = connection.recv(len(BYE))
                except OSError:
                    received = b""
                if received != BYE:
                    self._end(watched[connection], received)
                    return
                del watched[connection]

    def _end(self, ended: int, received: bytes) -> None:
        """Ends this process, unless it is ending by itself; process 0 first tells the others which one it was."""
        if len(received) == len(BYE) and self._index != 0:
            (ended,) = struct.unpack("!I", b"\0" + received)
        for connection in self._sockets:
            if self._index == 0:
                try:
                    connection.sendall(struct.pack("!I", ended)[1:])
                except OSError:
                    continue
        if select.select([self._woken], [], [], OWN_END_SECONDS)[0]:
            return
        end_with(message(ended, self._count))


def end_with(line: str) -> NoReturn:
    """Ends this process with exit code 2 and this line, unless native code has said already why it can't go on."""
    sys.stdout.flush()
    os.write(2, ENDED + line.encode() + b"\n")
    os._exit(2)


def message(ended: int, count: int) -> str:
    """What a process says when another one has ended."""
    return (
        f"dfine train: process {ended} of {count} has ended, see what it said, and this one can't go on without it: "
        "start all of them again, with --resume"
    )


def filter_native_errors() -> None:
    """From now on what C++ code writes to this process's standard error goes through ``native_errors.py``.

    Python's own output does not.
    """
    screen = os.dup(2)
    program = [sys.executable, "-I", "-S", str(Path(__file__).with_name("native_errors.py"))]
    watcher = subprocess.Popen(program, stdin=subprocess.PIPE, stderr=screen)
    os.dup2(watcher.stdin.fileno(), 2)
    watcher.stdin.close()
    sys.stderr = os.fdopen(screen, "w", buffering=1, encoding="utf-8", errors="backslashreplace")


def _listen(host: str) -> socket.socket:
    """A server for the other processes, on this machine alone where that is where they are."""
    if host.strip("[]") in ("localhost", "127.0.0.1", "::1"):
        return socket.create_server((host.strip("[]"), 0), family=socket.AF_INET6 if "::" in host else socket.AF_INET)
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", 0))


def _keep_alive(connection: socket.socket) -> None:
    connection.settimeout(None)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEP_ALIVE.items():
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _receive(connection: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size and (more := connection.recv(size - len(received))):
        received += more
    return received
