"""What a reader is kept to: five seconds, a gigabyte above the file, and no act but reading."""

import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SECONDS = 5
MEMORY = 2**30
ACTS = (
    "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "subprocess.Popen", "socket.connect",
    "socket.bind", "socket.getaddrinfo", "urllib.Request", "ftplib.connect", "smtplib.connect", "ctypes.dlopen",
    "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.chmod", "os.chown", "os.truncate",
    "shutil.rmtree", "shutil.move", "shutil.copyfile", "shutil.unpack_archive", "webbrowser.open", "os.putenv",
    "pty.spawn", "exec", "import", "marshal.loads", "pickle.find_class", "code.__new__", "tempfile.mkstemp",
)  # fmt: skip
watching: list[str] | None = None


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    """Note an act; an audit hook stays for as long as the process lives."""
    if watching is None:
        return
    if event == "open":
        _, mode, flags = arguments
        writes = (isinstance(mode, str) and set(mode) & set("wax+")) or (
            isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        )
        if writes:
            watching.append(f"open {str(arguments[0])[:80]} {mode}")
    elif event == "os.mkdir" and os.path.isdir(arguments[0]):
        pass  # zarr makes sure that the folder it opens is there
    elif event in ACTS:
        watching.append(f"{event} {str(arguments[0])[:80] if arguments else ''}")


class TooLongError(BaseException):
    """Past its time; no reader may catch it."""


def alarm(*_: Any) -> None:
    raise TooLongError


def install() -> None:
    "\x1b".encode("unicode_escape")  # a codec is imported when it is first used
    sys.addaudithook(watch)
    signal.signal(signal.SIGALRM, alarm)


def size(path: Path) -> int:
    """Bytes that a file or the files of a folder take on the disk, where holes take none."""
    total, left = 0, [path] if os.path.lexists(path) else []
    while left:
        here = left.pop()
        total += 512 * here.lstat().st_blocks
        if here.is_dir() and not here.is_symlink():
            left += here.iterdir()
    return total


def peak() -> int:
    """The most memory this process has held since the last call, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) * 1024
    return 0


def forget_peak() -> int:
    """Memory held now, which the peak starts from again."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak()


def guarded(read: Callable[[Path], Any], path: Path) -> dict[str, Any]:
    """How reading a file went: what was raised, the acts it led to, seconds and bytes."""
    global watching
    held, allowed = forget_peak(), MEMORY + size(path)
    virtual = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (virtual + 4 * allowed, resource.RLIM_INFINITY))
    raised: BaseException | None = None
    signal.setitimer(signal.ITIMER_REAL, 4 * SECONDS)
    acts: list[str] = []
    began = time.process_time()
    watching = acts
    try:
        read(path)
    except BaseException as error:
        raised = error
    finally:
        watching = None
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    seconds, grown = time.process_time() - began, peak() - held
    return {
        "error": raised,
        "acts": acts,
        "seconds": seconds,
        "bytes": grown,
        "too_long": isinstance(raised, TooLongError) or seconds > SECONDS,
        "too_large": grown > allowed,
    }
