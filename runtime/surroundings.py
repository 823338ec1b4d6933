"""A process's surroundings: its processors, its limit of open files, and its memory."""

import math
import os
import resource
from contextlib import suppress
from pathlib import Path

from hortus.runtime.errors import HortusError

_ENOUGH_FILES = 2**16
_SPARE_FILES = 8
_NO_MEMORY_TYPES = {"OutOfMemoryError", "ArrowMemoryError"}  # PyTorch's and Arrow's own
_NO_MEMORY = ("allocate memory", "out of memory", "bad_alloc", "can't start new thread")


def processors() -> int:
    """Returns how many processors this process may use at once, by its affinity and its container's quota."""
    # Only Linux has affinities; elsewhere audits run, too.
    affinity = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))
    present = len(affinity(0))
    return min(present, _quota() or present)


def raise_open_files() -> None:
    """Raises the soft limit of open files towards the hard one: a virtual site has three open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = _ENOUGH_FILES if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH_FILES)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


def out_of_files() -> str | None:
    """Returns the remedy where this process has as many files open as it may, else None."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        used = sum(1 for _ in Path("/dev/fd").iterdir())
    except OSError:
        used = limit  # there is not even one left to look with
    if limit == resource.RLIM_INFINITY or used < limit - _SPARE_FILES:
        return None
    return (
        f"This process may open {limit} files and has opened {used}: raise the limit (ulimit -n, or "
        "LimitNOFILE= of a service), or simulate fewer sites."
    )


def out_of_memory(error: BaseException) -> HortusError | None:
    """Returns an explanation if an error means that memory ran out; None for any other error."""
    kind, told = type(error).__name__, str(error).lower()
    is_of_memory = isinstance(error, MemoryError) or kind in _NO_MEMORY_TYPES
    if not is_of_memory and not (
        isinstance(error, RuntimeError | OSError) and any(words in told for words in _NO_MEMORY)
    ):
        return None
    return HortusError(
        "there was not enough memory",
        remedy="The memory of a pass through the model grows with training.micro_batch, task.max_length and "
        "privacy.max_records_per_unit; training.precision: bfloat16 halves the model's part. Lower them, or "
        "give the process more memory (ulimit -v, MemoryMax= of a service, the container's limit).",
    )


def _quota(group: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Of a control group (version 2), in whole processors; None without one."""
    with suppress(OSError, ValueError):
        quota, period = (group / "cpu.max").read_text(encoding="ascii").split()
        return max(1, math.ceil(int(quota) / int(period)))  # "max" is no number
    return None
