"""A program that stands between the C++ code of a process and the screen: standard input to standard error.

When one of several processes ends, that code aborts the others with pages of its own; here they become one line. A line
that begins with a zero byte is the last that is shown.
"""

import signal
import sys

LAST = b"\0"
FATAL = (
    b"*** Check failure stack trace",
    b"Terminating process because the JAX distributed service",
    b"terminate called after throwing",
)
NOISE = (
    b"[Gloo]",
    b"coordination_service",
    b"preemption_sync_manager",
    b"Additional GRPC error information",
    b":UNKNOWN:Error received from peer",
)
"""Parts of lines about other processes that mean nothing to a user."""
ENDED = (
    b"dfine train: another process of this training has ended, see what it said, and this one can't go on without it: "
    b"start all of them again, with --resume\n"
)


def main() -> None:
    """Runs until nobody writes any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the others are still to be heard
    ended = False
    for line in iter(sys.stdin.buffer.readline, b""):
        if ended or any(part in line for part in NOISE):
            continue
        if line.startswith(LAST) or any(part in line for part in FATAL):
            ended, line = True, line[1:] if line.startswith(LAST) else ENDED
        sys.stderr.buffer.write(line)
        sys.stderr.buffer.flush()


if __name__ == "__main__":
    main()
