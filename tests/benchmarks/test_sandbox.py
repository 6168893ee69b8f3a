"""The sandbox under attack."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from contextlib import closing
from pathlib import Path

import pytest

from benchmarks.prompt_sets.sandbox import Outcome, SandboxError, run_checked
from tests.benchmarks.sandboxed import sandboxed

SLEEPER = "86399.25"


def is_alive(argument: str) -> bool:
    for command in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if argument.encode() in command.read_bytes().split(b"\0"):
                return True
        except OSError:
            continue
    return False


def test_without_isolation_nothing_is_run(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SandboxError, match="unshare"):
        run_checked("", "")


@sandboxed
def test_a_right_program_passes_and_a_wrong_one_says_why():
    assert run_checked("def one():\n    return 1\n", "assert one() == 1") == Outcome(True, "")
    assert run_checked("def one():\n    return 2\n", "assert one() == 1, 'not one'") == Outcome(
        False, "AssertionError: not one"
    )
    assert "SyntaxError" in run_checked("def one(:", "").reason


@sandboxed
@pytest.mark.parametrize(
    "ending",
    [
        "import sys; sys.exit(0)",
        "import os; os._exit(0)",
        "raise SystemExit",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "import ctypes; ctypes.string_at(0)",
        "import os; os.closerange(0, 64)",
    ],
)
def test_exit_before_the_assertions_is_not_a_pass(ending):
    assert not run_checked(ending, "assert True").passed
    assert not run_checked(f"def one():\n    {ending}\n", "one()\nassert True").passed


@sandboxed
def test_an_open_quote_does_not_swallow_the_checks():
    assert not run_checked('x = """', '""" == 1\nassert False').passed


@sandboxed
@pytest.mark.parametrize(
    "trick",
    [
        "print('passed'); print('ready')",
        "import os\nfor fd in range(64):\n    try:\n        os.write(fd, b'passed\\n')\n"
        "    except OSError:\n        pass",
        "import os\nfor fd in range(64):\n    try:\n        os.write(fd, b'0' * 32 + b' passed \\n')\n"
        "    except OSError:\n        pass\nos._exit(0)",
        "import sys\nsys.stdout.write('passed\\n' * 1_000_000)",
    ],
)
def test_nothing_printed_is_a_pass(trick):
    assert not run_checked(trick, "assert False").passed


@sandboxed
def test_long_output_does_not_disturb_a_right_program():
    assert run_checked(
        "print('x' * 50_000_000)\nimport sys\nprint('x' * 10_000, file=sys.stderr)", "assert True"
    ).passed


@sandboxed
def test_an_infinite_loop_ends_at_the_time_limit():
    before = time.monotonic()
    assert run_checked("while True:\n    pass", "", seconds=1) == Outcome(False, "it ran for 1 s")
    assert time.monotonic() - before < 20


@sandboxed
@pytest.mark.parametrize("bomb", ["x = bytearray(8 << 30)", "x = [b'']\nwhile True:\n    x.append(bytes(1 << 20))"])
def test_a_memory_bomb_ends_at_the_memory_limit(bomb):
    outcome = run_checked(bomb, "", memory_mib=256)
    assert not outcome.passed
    assert "MemoryError" in outcome.reason


@sandboxed
def test_a_fork_bomb_ends_at_the_process_limit():
    bomb = "import os, time\nwhile True:\n    if os.fork() == 0:\n        time.sleep(1000)"
    assert "BlockingIOError" in run_checked(bomb, "").reason


def test_a_living_child_would_be_seen():
    with subprocess.Popen(["sleep", "86399.5"]) as child:
        until = time.monotonic() + 20
        while not (seen := is_alive("86399.5")) and time.monotonic() < until:  # its arguments appear a little later
            time.sleep(0.05)
        child.kill()
    assert seen
    assert not is_alive("86399.5")


@sandboxed
@pytest.mark.parametrize("leaves_group", ["os.setsid()", "None"])
def test_no_child_outlives_its_program(leaves_group):
    """The pipe closes at the child's exec, so the child was running when the checks passed."""
    program = (
        "import os\n"
        "heard, said = os.pipe()\n"
        "if os.fork() == 0:\n"
        f"    {leaves_group}\n"
        f"    os.execv('/bin/sleep', ['sleep', '{SLEEPER}'])\n"
        "os.close(said)\n"
        "os.read(heard, 1)\n"
    )
    assert run_checked(program, "assert True") == Outcome(True, "")
    deadline = time.monotonic() + 10
    while is_alive(SLEEPER) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_alive(SLEEPER)


@sandboxed
@pytest.mark.parametrize("hooked", [True, False])
def test_a_listener_on_this_machine_cannot_be_reached(hooked):
    """By Python's sockets, which the interpreter refuses, and by libc's, which only the network namespace stops."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        listener.settimeout(0.5)
        port = listener.getsockname()[1]
        by_python = f"import socket\nsocket.create_connection(('127.0.0.1', {port}), timeout=5)"
        by_libc = (
            "import ctypes, os\n"
            "libc = ctypes.CDLL(None, use_errno=True)\n"
            f"address = (2).to_bytes(2, 'little') + ({port}).to_bytes(2, 'big') + bytes([127, 0, 0, 1]) + bytes(8)\n"
            "if libc.connect(libc.socket(2, 1, 0), address, 16):\n"
            "    raise OSError(os.strerror(ctypes.get_errno()))"
        )
        outcome = run_checked(by_python if hooked else by_libc, "")
        with pytest.raises(TimeoutError):
            listener.accept()
    assert outcome.reason == (
        "PermissionError: the sandbox has no network" if hooked else "OSError: Network is unreachable"
    )


@sandboxed
def test_the_working_directory_is_fresh_and_writable():
    program = "import os\nassert os.listdir() == []\nopen('note', 'w').write('x')\nassert os.listdir() == ['note']"
    assert run_checked(program, "") == run_checked(program, "") == Outcome(True, "")


@sandboxed
def test_files_outside_the_working_directory_cannot_be_written(tmp_path):
    tmp_path.chmod(0o777)
    # /tmp is the sandbox's own, so pytest's folder is not even there; the home and this file are, and read-only.
    for target in (tmp_path / "x", Path.home() / "vllm-mtad-sandbox", Path("/var/tmp/x"), Path("/dev/shm/x"), __file__):
        reason = run_checked(f"open({str(target)!r}, 'a')", "").reason
        assert reason.startswith(("OSError", "PermissionError", "FileNotFoundError")), (target, reason)
    assert list(tmp_path.iterdir()) == []


@sandboxed
def test_files_are_small_and_so_is_the_directory():
    assert "File too large" in run_checked("open('x', 'wb').write(bytes(64 << 20))", "").reason
    fill = "for n in range(100):\n    open(f'{n}', 'wb').write(bytes(1 << 20))"
    assert "No space left" in run_checked(fill, "").reason


@sandboxed
def test_the_program_sees_no_environment_no_input_and_no_processes(monkeypatch):
    monkeypatch.setenv("OWN_SECRET", "42")
    program = (
        "import os, sys\nassert 'OWN_SECRET' not in os.environ and not os.listdir('/proc')\nassert not sys.stdin.read()"
    )
    assert run_checked(program, "") == Outcome(True, "")


@sandboxed
def test_the_program_has_no_privileges():
    program = (
        "import ctypes, os\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "assert libc.umount2(b'/tmp', 2) == -1\n"
        "assert libc.mount(b'tmpfs', b'/usr', b'tmpfs', 0, None) == -1\n"
        "assert libc.sethostname(b'x', 1) == -1\n"
    )
    assert run_checked(program, "") == Outcome(True, "")
    if os.geteuid() == 0:
        assert run_checked("import os\nassert os.getuid() == os.geteuid() == os.getgid() == 65534", "").passed
