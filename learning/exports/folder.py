"""The folder of an export: complete or not at all, and nothing of somebody else's is overwritten."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hortus.learning.methods.base import ABOUT
from hortus.runtime.errors import HortusError, UsageError


@contextmanager
def new_folder(target: Path, *, force: bool) -> Iterator[Path]:
    """Lends a folder to write to, which becomes the target when all is written.

    Args:
        target: Where the export goes.
        force: Whether it replaces an earlier export that is there.

    Raises:
        UsageError: There is something already.
        HortusError: It cannot be written.
    """
    _check_free(target, force=force)
    target = Path(os.path.abspath(target))  # noqa: PTH100 - `resolve` would follow links
    partial = target.with_name(f".{target.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        if target.exists():
            shutil.rmtree(target)
        partial.rename(target)
    except OSError as error:
        raise HortusError(
            f"it cannot be written: {error.strerror or error}", where=str(target)
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _check_free(target: Path, *, force: bool) -> None:
    if not (target.exists() or target.is_symlink()):
        return
    is_export = target.is_dir() and not target.is_symlink() and (target / ABOUT).is_file()
    if not force:
        remedy = "--force replaces it." if is_export else "Choose a new one."
        raise UsageError("this folder exists already", where=str(target), remedy=remedy)
    if not is_export:
        raise UsageError(
            "this is no earlier export, so it is not replaced",
            where=str(target),
            remedy="Choose a new folder, or remove this one yourself.",
        )
