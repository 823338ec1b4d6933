"""Where the states of frozen layers are kept: in memory while there is room, else in a file without a name.

They tell as much as the records that they were made of. Nobody can open such a file, and it is gone with the
process, however that ends.
"""

import logging
import mmap
import os
import shutil
import tempfile

import torch

from hortus.learning.models.memory import available, in_gib

_IN_MEMORY = 2**31  # bytes at most, and a quarter of what is free
_OF_DISK = 0.5  # of what is free there
logger = logging.getLogger(__name__)


def room_for(rows: int, width: int, dtype: torch.dtype) -> torch.Tensor | None:
    """Returns room for so many rows of states, (rows, width); None where there is not enough.

    Args:
        rows: Tokens of all records.
        width: Numbers of a token's state.
        dtype: As the model computes them, so that keeping them changes no bit.
    """
    size = rows * width * dtype.itemsize
    if size <= min(_IN_MEMORY, available(torch.device("cpu")) // 4):
        return torch.empty(rows, width, dtype=dtype)
    if (mapped := _mapped(size)) is not None:
        return torch.frombuffer(mapped, dtype=dtype).view(rows, width)
    logger.warning(
        "no room for %s of what frozen layers make of the records, so they run again in each step; "
        "name a folder on a larger disk by TMPDIR",
        in_gib(size),
    )
    return None


def _mapped(size: int) -> mmap.mmap | None:
    """Returns a file's bytes as memory; None where the disk lacks room."""
    try:
        if size > _OF_DISK * shutil.disk_usage(tempfile.gettempdir()).free:
            return None
        with tempfile.TemporaryFile() as file:
            # A full disk is found here, and not by a signal in the middle of a step.
            os.posix_fallocate(file.fileno(), 0, size)
            return mmap.mmap(file.fileno(), size)
    except OSError:
        return None
