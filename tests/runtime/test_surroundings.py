"""The limit of open files is raised or named, and processors are counted as a container has them."""

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from hortus.runtime.surroundings import _quota, out_of_files, processors, raise_open_files


@contextmanager
def soft_limit(files: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_soft_limit_follows_the_hard_one() -> None:
    with soft_limit(161):
        raise_open_files()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert soft == min(hard, 2**16) if hard != resource.RLIM_INFINITY else soft == 2**16
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    raise_open_files()
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= before[0]


def test_a_limit_that_is_used_up_is_named() -> None:
    assert out_of_files() is None
    with soft_limit(200):
        files = []
        try:
            with suppress(OSError):
                while True:
                    files.append(Path("/dev/null").open())  # noqa: SIM115
            assert "ulimit -n" in (out_of_files() or "")
            assert "200" in (out_of_files() or "")
        finally:
            for file in files:
                file.close()
    assert out_of_files() is None


def test_a_hard_limit_that_is_too_low_is_named_by_the_command() -> None:
    """Not the disk is full: SQLite cannot say why it opens nothing."""
    program = """
import resource, sys
from pathlib import Path
from tempfile import mkdtemp
from hortus.privacy.ledger.journal import explained
import sqlite3
resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))
held = []
try:
    with explained(Path("ledger.sqlite")):
        while True:
            held.append(sqlite3.connect(Path(mkdtemp()) / "ledger.sqlite"))
            held[-1].execute("CREATE TABLE t (x)")
except Exception as error:
    held.clear()
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "may open 60 files" in done.stdout
    assert "disk" not in done.stdout


@pytest.mark.parametrize(
    ("content", "quota"),
    [
        ("200000 100000\n", 2),
        ("150000 100000\n", 2),
        ("5000 100000\n", 1),
        ("max 100000\n", None),
        ("", None),
        (None, None),
    ],
)
def test_a_container_s_quota_counts(tmp_path: Path, content: str | None, quota: int | None) -> None:
    if content is not None:
        (tmp_path / "cpu.max").write_text(content)
    assert _quota(tmp_path) == quota
    assert 1 <= processors() <= (os.cpu_count() or 1)


def test_where_there_are_no_affinities_all_processors_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    assert 1 <= processors() <= (os.cpu_count() or 1)
