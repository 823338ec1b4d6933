"""The user of Flower's programs: nothing of the site is open to it, or the agent does not start them."""

import os
import pwd
import struct
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from hortus.client.flower.relay_user import Access, RelayUser
from hortus.client.flower.supernode import protected
from hortus.parties.folders import ServerConfig, SiteConfig, SiteFiles
from hortus.parties.founding import create_consortium
from hortus.protocol.policy import Budget, Policy
from hortus.runtime.errors import UsageError

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root may run programs as another user"
)


@pytest.fixture
def files() -> Iterator[SiteFiles]:
    """A site's folder as `hortus init` makes it, with a ledger in use, below a folder others may pass."""
    with TemporaryDirectory(prefix="hortus-") as name:
        directory = Path(name)
        directory.chmod(0o711)
        records = directory / "records.csv"
        records.write_text("text,label")
        records.chmod(0o600)
        consortium = create_consortium(
            directory / "consortium",
            {"ash": records, "birch": records},
            dict.fromkeys(("ash", "birch"), Policy(budget=Budget(epsilon=1.0, delta=1e-5))),
            ServerConfig(aggregation="127.0.0.1:1", superlink="127.0.0.1:1"),
            datetime.now(UTC),
        )
        site = consortium.site("ash")
        for end in ("", "-wal", "-shm"):
            path = site.directory / f"ledger.sqlite{end}"
            path.touch(mode=0o600)
        for folder in ("plans", "logs", "run", "flower/bin"):
            (site.directory / folder).mkdir(parents=True)
        yield site


def refusal(files: SiteFiles) -> str:
    """Why the check refuses, before it comes to what the user needs; nothing if it does not."""
    user = RelayUser.find("nobody")
    try:
        user.check_apart(protected(files, user), needed=Path("/no/such/file"))
    except UsageError as error:
        return str(error)
    raise AssertionError("it needs a file that is not there")


def access_list(path: Path, permission: int) -> None:
    """Lets nobody do what the mode forbids, as setfacl does: user entry, mask, others."""
    uid = pwd.getpwnam("nobody").pw_uid
    anybody = 2**32 - 1
    entries = [(1, 6, anybody), (2, permission, uid), (4, 0, anybody), (16, 7, anybody)]
    entries.append((32, 0, anybody))
    packed = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    try:
        os.setxattr(path, "system.posix_acl_access", packed)
    except OSError:
        pytest.skip("no access control lists on this file system")


def test_a_site_as_it_is_made_is_apart(files: SiteFiles) -> None:
    assert "no/such/file: the user 'nobody'" in refusal(files)
    assert "cannot reach this" in refusal(files)


def test_a_relative_folder_is_checked_as_well(
    files: SiteFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check runs in another folder: a relative path names nothing there, and all seems closed."""
    monkeypatch.chdir(files.directory.parent)
    relative = SiteFiles(Path(files.directory.name))
    assert "cannot reach this" in refusal(relative)
    (files.directory / "keys").chmod(0o755)
    files.identity.chmod(0o644)
    assert f"{files.directory.resolve()}/keys: " in refusal(relative)
    user = RelayUser.find("nobody")
    with pytest.raises(UsageError, match=r"relay_user: .* cannot be checked: keys is relative"):
        user.check_apart([(Access.READ, Path("keys"))], needed=files.config.resolve())


@pytest.mark.parametrize(
    ("name", "mode", "access"),
    [
        ("keys", 0o755, "read"),
        ("keys", 0o711, "enter"),
        ("keys", 0o733, "enter"),
        ("tls/node.key", 0o644, None),  # tls/ itself is closed
        ("tls", 0o755, None),
        ("tls", 0o777, "change"),
        ("ledger.sqlite", 0o644, "read"),
        ("ledger.sqlite", 0o622, "write"),
        ("ledger.sqlite-wal", 0o644, "read"),
        ("ledger.sqlite-shm", 0o606, "read"),
        ("../../../records.csv", 0o644, "read"),
        ("../../../records.csv", 0o602, "write"),
        ("policy.yaml", 0o666, "write"),
        ("roster.yaml", 0o646, "write"),
        ("site.yaml", 0o622, "write"),
        ("server.card.yaml", 0o666, "write"),
        (".", 0o777, "change"),
        ("..", 0o777, "change"),
        ("../../..", 0o733, "change"),
        ("plans", 0o777, "change"),
        ("logs", 0o733, "change"),
        ("run", 0o777, "change"),
        ("flower", 0o777, "change"),
        ("flower/bin", 0o777, "change"),
    ],
)
def test_whatever_it_could_do_with_the_site_is_named(
    files: SiteFiles, name: str, mode: int, access: str | None
) -> None:
    path = files.directory / name
    path.chmod(mode)
    told = refusal(files)
    if access is None:
        assert "cannot reach this" in told
    else:
        assert told.startswith(f"{path.resolve()}: the user 'nobody'")
        assert f"can {access} this" in told
    assert not list(files.directory.rglob(".hortus-*"))


@pytest.mark.parametrize(("permission", "access"), [(4, "read"), (2, "write")])
def test_an_access_control_list_counts(files: SiteFiles, permission: int, access: str) -> None:
    access_list(files.ledger, permission)
    assert f"ledger.sqlite: the user 'nobody', which Flower's programs run as, can {access}" in (
        refusal(files)
    )


def test_a_folder_of_records_is_closed_and_links_in_it_are_followed(files: SiteFiles) -> None:
    folder = files.directory.parent / "folder"
    folder.mkdir(mode=0o700)
    (folder / "part.csv").write_text("text,label")
    SiteConfig(site="ash", data=folder).save(files.config)
    assert "cannot reach this" in refusal(files)
    folder.chmod(0o711)
    assert "folder: the user 'nobody', which Flower's programs run as, can enter" in refusal(files)
    folder.chmod(0o700)
    elsewhere = files.directory.parent / "elsewhere.csv"
    elsewhere.write_text("text,label")
    (folder / "link.csv").symlink_to(elsewhere)
    assert "elsewhere.csv: the user 'nobody', which Flower's programs run as, can read" in (
        refusal(files)
    )


def test_records_that_are_not_there_are_not_taken_to_be_closed(files: SiteFiles) -> None:
    SiteConfig(site="ash", data=Path("none.csv")).save(files.config)
    assert "so nobody can check who could read them" in refusal(files)


def _fails(*_: object, **__: object) -> subprocess.CompletedProcess[bytes]:
    raise PermissionError("no shell")


def _is_late(*_: object, **__: object) -> subprocess.CompletedProcess[bytes]:
    raise subprocess.TimeoutExpired("sh", 60)


def _says_nothing(*_: object, **__: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.CompletedProcess([], 0, b"", b"")


def _stops_early(*_: object, **__: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.CompletedProcess([], 0, b"tried 1\n", b"")


def _ends_badly(*_: object, **__: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.CompletedProcess([], 127, b"", b"sh: not found")


@pytest.mark.parametrize("run", [_fails, _is_late, _says_nothing, _stops_early, _ends_badly])
def test_a_check_that_does_not_run_refuses(
    files: SiteFiles, monkeypatch: pytest.MonkeyPatch, run: Callable[..., object]
) -> None:
    user = RelayUser.find("nobody")
    monkeypatch.setattr(RelayUser, "_run", run)
    with pytest.raises(UsageError, match=r"site.yaml: relay_user: .* cannot be checked"):
        user.check_apart(protected(files, user), needed=files.config)
