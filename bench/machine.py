"""The machine that is measured on: its cores, its limits, and what its processes use."""

import os
import platform
import re
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Missing(Exception):
    """Something that a measurement needs is not here; says what, and how to get it."""


class TooSmall(Exception):
    """The machine is too small to show it; nothing can be installed against that."""


class Machine:
    """Servers run alone on one core, the load and all else on another; each may open many files.

    Raises:
        Missing: this is not Linux, or it has only one core.
    """

    def __init__(self) -> None:
        if not hasattr(os, "sched_setaffinity"):
            raise Missing("this needs Linux: processes are pinned to cores and read in /proc")
        self.cores = sorted(os.sched_getaffinity(0))
        if len(self.cores) < 2:
            raise Missing("this needs two cores: one for the server, one for the load")
        # All this is for this process and whatever it starts.
        os.sched_setaffinity(0, {self.cores[0]})
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))

    @property
    def server_cores(self) -> list[int]:
        """The cores that servers can have, best first."""
        return self.cores[:0:-1]

    @staticmethod
    def need_files(count: int) -> None:
        """Have that many files open in one process.

        Raises:
            Missing: the limit is lower.
        """
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        if most != resource.RLIM_INFINITY and most < count:
            raise Missing(f"this needs {count:,} open files: raise `ulimit -Hn`, which is {most:,}")

    def __str__(self) -> str:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        processor = found[1] if found else platform.machine()
        return f"{processor}, {len(self.cores)} cores; {platform.system()} {platform.release()}"


@contextmanager
def on_core(core: int | None) -> Iterator[None]:
    """Give what is started meanwhile a core; without one, it shares that of this process."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, before if core is None else {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def memory(process: int) -> int:
    """Resident memory of a process, in bytes."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * resource.getpagesize()


def cpu(process: int) -> float:
    """User and system time that all threads of a process have had so far, in seconds."""
    after_name = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")
