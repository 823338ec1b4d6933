"""Packages that a page of the documentation writes, installed as pip installs them."""

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


def blocks(page: str, language: str) -> list[str]:
    """Returns a page's blocks of code in a language, in their order."""
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.DOTALL | re.MULTILINE)


def install(page: str, modules: Sequence[str], folder: Path) -> Path:
    """Installs the package of a page's Python blocks and its one TOML block; returns where it lies.

    Args:
        page: The page.
        modules: What its Python blocks are called, in their order.
        folder: A new folder.
    """
    source, target = folder / "source", folder / "installed"
    source.mkdir()
    for name, code in zip(modules, blocks(page, "python"), strict=True):
        (source / f"{name}.py").write_text(code)
    (source / "pyproject.toml").write_text(*blocks(page, "toml"))
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--target"]
    command = [sys.executable, "-m", "pip", "install", *options, str(target), str(source)]
    subprocess.run(command, check=True)
    return target
