"""The limit of open files is raised or named, and loopback is never dialled through a proxy."""

import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from hortus.protocol.surroundings import (
    is_this_machine,
    out_of_files,
    proxies,
    proxy_variable,
    raise_open_files,
)


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
from hortus.privacy.ledger import explained
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
    assert "60 files open" in done.stdout
    assert "disk" not in done.stdout


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, {"no_proxy": "localhost,127.0.0.1,::1"}),
        (
            {"HTTPS_PROXY": "http://proxy:3128"},
            {"https_proxy": "http://proxy:3128", "no_proxy": "localhost,127.0.0.1,::1"},
        ),
        (
            {"http_proxy": "http://a:1", "HTTP_PROXY": "http://b:2", "NO_PROXY": ".ward,::1"},
            {"http_proxy": "http://a:1", "no_proxy": ".ward,::1,localhost,127.0.0.1"},
        ),
        (
            {"grpc_proxy": "http://a:1", "no_grpc_proxy": "hub"},
            {
                "grpc_proxy": "http://a:1",
                "no_grpc_proxy": "hub,localhost,127.0.0.1,::1",
                "no_proxy": "localhost,127.0.0.1,::1",
            },
        ),
        ({"https_proxy": "", "PATH": "/bin"}, {"no_proxy": "localhost,127.0.0.1,::1"}),
    ],
)
def test_proxies_are_named_as_grpc_reads_them(
    environment: dict[str, str], expected: dict[str, str]
) -> None:
    assert proxies(environment) == expected
    assert proxies(expected) == expected


def test_loopback_has_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    for host in ("localhost", "LOCALHOST", "127.0.0.1", "127.1.2.3", "::1"):
        assert is_this_machine(host)
        assert proxy_variable(host) is None
    for host in ("hub.example", "10.0.0.7", "localhost.example", "::2"):
        assert not is_this_machine(host)
        assert proxy_variable(host) == "https_proxy"
