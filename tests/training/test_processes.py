"""Several processes: when one ends all do, each with one line."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from dfine_jax.training import native_errors
from dfine_jax.training.peers import message
from dfine_jax.training.processes import Processes, joined

FILTER = [sys.executable, "-I", "-S", native_errors.__file__]
ABORT = b"""F1129 19:20:48.888362 14623 client.h:77] Terminating process because the JAX distributed service detected
*** Check failure stack trace: ***
    @     0x7f7f5d240634  absl::lts_20260107::log_internal::LogMessage::SendToLog()
    @     0x7f7f5d2405b6  absl::lts_20260107::log_internal::LogMessage::Flush()
"""


def shown(text: bytes) -> bytes:
    return subprocess.run(FILTER, input=text, capture_output=True, check=True).stderr


def test_what_native_code_says_passes():
    assert shown(b"W1129 slow_operation\nhalf a line") == b"W1129 slow_operation\nhalf a line"


def test_an_abort_is_one_line():
    assert shown(b"before\n" + ABORT + b"after\n") == b"before\n" + native_errors.ENDED


def test_news_of_other_processes_is_left_out():
    noise = b"E1129 coordination_service_agent.cc:289] Polled an error\n[Gloo] Rank 0 is connected to 1 peer ranks.\n"
    assert shown(noise + b"after\n") == b"after\n"


def test_what_is_told_last_is_last_and_told_once():
    last = message(1, 2).encode() + b"\n"
    assert shown(b"before\n\0" + last + ABORT) == b"before\n" + last


@pytest.mark.parametrize(
    ("processes", "wrong"),
    [
        (Processes("host:1234"), "give all of coordinator"),
        (Processes(None, 2, 0), "give all of coordinator"),
        (Processes("host", 2, 0), "the coordinator is HOST:PORT, such as 10.0.0.1:1234, not 'host'"),
        (Processes("host:port", 2, 0), "the coordinator is HOST:PORT"),
        (Processes("host:1234", 2, 2), "index 2 of count 2"),
        (Processes("host:1234", 2, -1), "index -1 of count 2"),
        (Processes("host:1234", 0, 0), "index 0 of count 0"),
    ],
)
def test_places_that_make_no_sense_are_refused(processes, wrong):
    with pytest.raises(ValueError, match=wrong), joined(processes):
        pass


def test_one_process_is_none_of_several(monkeypatch):
    for name in ("SLURM_STEP_NUM_TASKS", "TPU_WORKER_HOSTNAMES"):
        monkeypatch.delenv(name, raising=False)
    before = sys.stderr
    for processes in (Processes(), Processes("localhost:1", 1, 0)):
        with joined(processes):
            assert sys.stderr is before


def start(how: str, count: int = 2) -> list[subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    program = [sys.executable, str(Path(__file__).with_name("run_peers.py")), port]
    folders = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(folders), "XLA_FLAGS": ""}
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    return [subprocess.Popen([*program, str(index), str(count), how], **pipes) for index in range(count)]


def ends(processes: list[subprocess.Popen]) -> list[tuple[int, list[str]]]:
    """The exit code of each, and what it said."""
    try:
        said = [process.communicate(timeout=120)[1].splitlines() for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, lines) for process, lines in zip(processes, said, strict=True)]


def wait_until(processes: list[subprocess.Popen], seen: str) -> None:
    for process in processes:
        while (line := process.stdout.readline()) and seen not in line:
            continue


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1, 2])
def test_the_others_end_with_one_line_when_one_is_killed(killed):
    processes = start("on", 3)
    wait_until(processes, "3")
    processes[killed].kill()
    for index, (code, lines) in enumerate(ends(processes)):
        if index == killed:
            assert code == -signal.SIGKILL
            continue
        assert code != 0
        (line,) = lines
        assert line in (message(killed, 3), native_errors.ENDED.decode().rstrip())


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_one_that_is_killed_while_they_meet_ends_the_other(killed):
    processes = start("on")
    wait_until(processes, "is connected to 1 peer")
    processes[killed].kill()
    code, lines = ends(processes)[1 - killed]
    assert code != 0
    (line,) = lines
    told = native_errors.ENDED.decode().rstrip()
    assert line in (message(killed, 2), told) or line.startswith("dfine train: the processes did not all meet (")


@pytest.mark.slow
def test_an_error_of_one_is_said_there_and_ends_the_other():
    first, second = ends(start("error"))
    assert second == (2, ["dfine train: this picture can't be read"])
    assert first == (2, [message(1, 2)])


@pytest.mark.slow
def test_a_fault_of_one_ends_both():
    (code, lines), (second_code, second_lines) = ends(start("fault"))
    assert (code, lines) == (2, [message(1, 2)])
    assert second_code == 70
    assert second_lines[-1] == "RuntimeError: a fault"


@pytest.mark.slow
def test_processes_that_end_well_end_when_they_like():
    assert ends(start("done")) == [(0, []), (0, [])]
