"""The inside of the sandbox closes the namespaces that `sandbox.py` opened, and runs the program in them.

It is a script for a bare interpreter (`python -I -S`), so it imports nothing of this project. It is process 1 of its
namespace: when it ends, the kernel kills all others. It reads a JSON request on stdin and reports a line `TOKEN ready`,
and a line `TOKEN passed|failed REASON`, on the file descriptor that the request names.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import os
import resource
import signal
import socket
import sys
import types
from typing import Any

NOBODY = 65534
WRITABLE = "/tmp"
LIBRARY = "/run"
EMPTY = ("/proc", "/dev/shm")
DISK_BYTES = 16 << 20
PROCESSES = 64
# linux/mount.h, linux/prctl.h, linux/capability.h; 442 is mount_setattr on x86-64 and arm64 (Linux 5.12).
SYS_MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE = 442, -100, 0x8000
ATTR_RDONLY, ATTR_NOSUID, ATTR_NODEV = 1, 2, 4
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_BIND, MS_REC = 1, 2, 4, 4096, 16384
PR_SET_NO_NEW_PRIVS, CAPABILITY_VERSION_3 = 38, 0x20080522

libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    request = json.load(sys.stdin)
    nothing = os.open(os.devnull, os.O_RDWR)  # before devices are out of reach
    close_file_system()
    # If sandbox.py itself was killed, nobody else keeps the time.
    signal.signal(signal.SIGALRM, lambda *_: os._exit(1))
    signal.alarm(math.ceil(request["seconds"]) + 5)
    program = os.fork()
    if program == 0:
        limit_resources(request["seconds"], request["memory_mib"])
        drop_privileges(request["by_root"])
        sys.addaudithook(refuse_sockets)
        for standard in range(3):
            os.dup2(nothing, standard)
        run(request)
    else:
        while os.wait()[0] != program:
            pass
    os._exit(0)


def run(request: dict[str, Any]) -> None:
    """The checks are compiled apart from the solution, so that an open quote in it cannot swallow them."""
    token, report = request.pop("token"), request.pop("report")
    module = types.ModuleType("program")
    sys.modules["program"] = module
    os.write(report, f"{token} ready\n".encode())
    verdict, reason = "failed", ""
    try:
        exec(compile(request["solution"], "solution", "exec", dont_inherit=True), module.__dict__)
        exec(compile(request["checks"], "checks", "exec", dont_inherit=True), module.__dict__)
        verdict = "passed"
    except BaseException as error:  # SystemExit too: it may not end the checks early
        reason = type(error).__name__
        with contextlib.suppress(BaseException):  # an exception of the program's own may not even have a text
            reason += f": {error}"
    line = f"{token} {verdict} {' '.join(reason.split())[:300]}"
    os.write(report, line.encode(errors="replace") + b"\n")


def close_file_system() -> None:
    """All mounts become read-only and lose their devices; then one small place to write, and empty ones to hide."""
    move_standard_library()
    attributes = (ctypes.c_uint64 * 4)(ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV, 0, 0, 0)
    size = ctypes.sizeof(attributes)
    closed = libc.syscall(SYS_MOUNT_SETATTR, AT_FDCWD, b"/", AT_RECURSIVE, ctypes.byref(attributes), size)
    _check("mount_setattr(/)", closed)
    for path in EMPTY:
        if os.path.isdir(path):
            _mount("tmpfs", path, MS_NOSUID | MS_NODEV | MS_RDONLY, "size=4k,mode=755")
    _mount("tmpfs", WRITABLE, MS_NOSUID | MS_NODEV, f"size={DISK_BYTES},mode=1777")
    os.chdir(WRITABLE)


def move_standard_library() -> None:
    """Move it to /run, hiding what was there: the folder it comes from is often one that `nobody` may not enter."""
    home = os.path.dirname(os.__file__)
    _mount(home, LIBRARY, MS_BIND | MS_REC)
    sys.path[:] = [LIBRARY, f"{LIBRARY}/lib-dynload"]
    for module in list(sys.modules.values()):
        if hasattr(module, "__path__"):
            module.__path__ = [path.replace(home, LIBRARY, 1) for path in module.__path__]


def limit_resources(seconds: float, memory_mib: int) -> None:
    limits = {
        resource.RLIMIT_CPU: math.ceil(seconds) + 1,
        resource.RLIMIT_AS: memory_mib << 20,
        resource.RLIMIT_FSIZE: DISK_BYTES,
        resource.RLIMIT_NPROC: PROCESSES,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
    }
    for limit, value in limits.items():
        resource.setrlimit(limit, (value, value))


def drop_privileges(by_root: bool) -> None:
    """In a user namespace "root" is the user that called; of a real root nothing may be left, not even its files."""
    _check("prctl(NO_NEW_PRIVS)", libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    if by_root:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    header, none = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0), (ctypes.c_uint32 * 6)()
    _check("capset", libc.capset(header, none))


def refuse_sockets(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook, which a program cannot take away. The namespace has no network; this is the second line."""
    local_pair = event == "socket.__new__" and arguments[1] in (socket.AF_UNIX, -1)  # event loops make one
    if event.startswith("socket.") and not local_pair:
        raise PermissionError("the sandbox has no network")


def _mount(source: str, path: str, flags: int, options: str = "") -> None:
    kind = None if flags & MS_BIND else source.encode()
    result = libc.mount(source.encode(), path.encode(), kind, ctypes.c_ulong(flags), options.encode())
    _check(f"mount({source} on {path})", result)


def _check(call: str, result: int) -> None:
    if result != 0:
        sys.exit(f"{call}: {os.strerror(ctypes.get_errno())}")


if __name__ == "__main__":
    main()
