"""How much memory there is, and how much a pass through a model takes."""

import resource
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import torch

Result = TypeVar("Result")

_GIB = 2**30
_PAGE = resource.getpagesize()


def available(device: torch.device) -> int:
    """Returns the bytes that this process may still take: of a GPU, or the least of the machine's own, the
    container's and the process' limit (`ulimit -v`).
    """  # noqa: D205 - one sentence
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    left = [_of_machine(), _of_container(), _of_process()]
    return max(0, min((one for one in left if one is not None), default=2**62))


def _of_machine() -> int | None:
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        found = next(line for line in lines if line.startswith("MemAvailable:"))
        return int(found.split()[1]) * 1024
    return None


def _of_container(group: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Of a control group (version 2); what it can give up of cached files counts as free."""
    with suppress(OSError, ValueError, StopIteration):
        limit = int((group / "memory.max").read_text(encoding="ascii"))  # "max" is no number
        used = int((group / "memory.current").read_text(encoding="ascii"))
        lines = (group / "memory.stat").read_text(encoding="ascii").splitlines()
        cached = next(line for line in lines if line.startswith("inactive_file "))
        return limit - used + int(cached.split()[1])
    return None


def _of_process() -> int | None:
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return None
    with suppress(OSError, ValueError):
        return limit - int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * _PAGE
    return None


def kept_for_backward(forward: Callable[[], Result]) -> tuple[Result, int]:
    """Computes something, and counts the bytes that autograd keeps of it, each storage once."""
    kept: dict[int, int] = {}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        result = forward()
    return result, sum(kept.values())


def in_gib(count: float) -> str:
    """Returns a number of bytes as a person reads it."""
    return f"{count / _GIB:.1f} GiB" if count >= _GIB / 10 else f"{count / 2**20:.0f} MiB"
