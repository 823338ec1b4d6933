"""The user that Flower's programs run as beside an agent: one to whom nothing of the site is open.

Flower's SuperNode is a large program that talks to the server. Under the agent's own user, a defect
in it would reach the site's keys; under another, the operating system keeps them apart.
"""

import os
import pwd
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Self

from hortus.runtime.errors import UsageError

_CHECK_SECONDS = 60.0
_WHERE = "site.yaml: relay_user"
_AT_ONCE = 200  # paths in a command line
# Tries each, as the user, so that whatever grants access counts: modes, access control lists, groups.
# Prints the numbers of those that succeed, and at the end how many were tried.
_TRY = """
i=0
while [ $# -gt 1 ]; do
    case $1 in
        read) ( : < "$2" ) 2> /dev/null && echo $i ;;
        write) ( : >> "$2" ) 2> /dev/null && echo $i ;;
        change) mkdir "$2/.hortus-$$" 2> /dev/null && rmdir "$2/.hortus-$$" && echo $i ;;
        enter) ( cd "$2" ) 2> /dev/null && echo $i ;;
        *) exit 1 ;;
    esac
    i=$((i + 1))
    shift 2
done
echo tried $i
"""


class Access(StrEnum):
    """What a user may do with a file, or with a folder."""

    READ = "read"
    WRITE = "write"
    CHANGE = "change"  # a folder: make, replace and remove what is in it
    ENTER = "enter"


Guarded = tuple[Access, Path]


def hidden(path: Path) -> list[Guarded]:
    """Returns what nobody else may do with an existing file or folder."""
    if path.is_dir():
        return [(access, path) for access in (Access.READ, Access.ENTER, Access.CHANGE)]
    return [(access, path) for access in (Access.READ, Access.WRITE)]


def settled(path: Path) -> list[Guarded]:
    """Returns what nobody else may do with a file that others may read."""
    return [(Access.CHANGE if path.is_dir() else Access.WRITE, path)]


@dataclass(frozen=True, slots=True)
class RelayUser:
    """A user of this machine.

    Attributes:
        name: Its name.
        uid: Its number.
        gid: Its own group, which also owns the agent's socket.
    """

    name: str
    uid: int
    gid: int

    @classmethod
    def find(cls, name: str) -> Self:
        """Looks a user up, and makes sure that this process can start programs as it.

        Raises:
            UsageError: The user does not exist, is root or the agent's own, or the agent may not start programs as it.
        """
        try:
            entry = pwd.getpwnam(name)
        except KeyError as error:
            raise UsageError(
                f"this machine has no user {name!r}",
                where=_WHERE,
                remedy=f"useradd --system --shell /usr/sbin/nologin {name}",
            ) from error
        user = cls(name, entry.pw_uid, entry.pw_gid)
        if user.uid in (0, os.geteuid()):
            raise UsageError(f"{name!r} can read all that the agent can", where=_WHERE)
        try:
            user._run(["true"])
        except PermissionError as error:
            raise UsageError(
                f"this process is not allowed to start programs as {name!r}",
                where=_WHERE,
                remedy="Start hortus client as root, or omit relay_user.",
            ) from error
        return user

    def take(self, path: Path, source: Path) -> Path:
        """Gives the user a copy of a file, which others may not read; returns its path."""
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as copy:
            # By its handle: in the user's own folder, the name may be a link to elsewhere by now.
            os.fchown(descriptor, self.uid, self.gid)
            copy.write(source.read_bytes())
        return path

    def make_home(self, directory: Path) -> None:
        """Makes a folder that the user alone may enter."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        shutil.chown(directory, self.uid, self.gid)
        directory.chmod(0o700)

    def check_apart(self, guarded: Iterable[Guarded], needed: Path) -> None:
        """Makes sure that the user can reach what it needs, and do nothing that is the site's alone.

        Args:
            guarded: What it must not be able to do, with absolute paths of what is there.
            needed: A file that it must be able to read.

        Raises:
            UsageError: It names the file, or what is missing, or why it cannot be checked.
        """
        asked = list(dict.fromkeys(guarded))
        for access, path in self._allowed(asked):
            raise UsageError(
                f"the user {self.name!r}, which Flower's programs run as, can {access.value} this",
                where=str(path),
                remedy=f"chmod go-rwx {path} (or o-w, for what others may look at), and setfacl -b.",
            )
        if not self._allowed([(Access.READ, needed)]):
            raise UsageError(
                f"the user {self.name!r}, which Flower's programs run as, cannot reach this",
                where=str(needed),
                remedy="Let it pass through the folders above: chmod o+x (it still cannot list them).",
            )
        try:
            imported = self._run([sys.executable, "-c", "import hortus.client.flower.relay"])
            problem = imported.stderr.decode(errors="replace") if imported.returncode else ""
        except PermissionError as error:
            problem = str(error)
        if problem:
            raise UsageError(
                f"the user {self.name!r} cannot run this Python environment: {problem[-300:].strip()}",
                where=sys.prefix,
                remedy="Install Hortus and its Python where every user can read them, such as /opt/hortus.",
            )

    def _allowed(self, asked: Sequence[Guarded]) -> list[Guarded]:
        """Returns what the user can do of what is asked, by trying.

        Raises:
            UsageError: It could not be tried, so that nothing is known.
        """
        allowed = []
        for start in range(0, len(asked), _AT_ONCE):
            part = asked[start : start + _AT_ONCE]
            for _, path in part:
                if not path.is_absolute():
                    raise _unchecked(self.name, f"{path} is relative")
            words = [word for access, path in part for word in (access.value, str(path))]
            try:
                tried = self._run(["/bin/sh", "-c", _TRY, "sh", *words])
            except (OSError, subprocess.TimeoutExpired) as error:
                raise _unchecked(self.name, str(error)) from error
            *numbers, last = tried.stdout.decode(errors="replace").splitlines() or [""]
            if tried.returncode != 0 or last != f"tried {len(part)}":
                raise _unchecked(self.name, tried.stderr.decode(errors="replace")[-300:])
            allowed += [part[int(number)] for number in numbers]
        return allowed

    def _run(self, command: Sequence[str]) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(  # noqa: S603 - our own arguments
            command,
            user=self.uid,
            group=self.gid,
            extra_groups=[],
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_CHECK_SECONDS,
            check=False,
        )


def may_be_changed(path: Path, owner: int) -> bool:
    """Whether it is to be asked if others may change a folder: not if all may, but only what is theirs.

    Args:
        path: A folder, such as /tmp, where everybody may make files and nobody remove another's.
        owner: The number of the user that is asked about.
    """
    state = path.stat()
    return not state.st_mode & stat.S_ISVTX or state.st_uid == owner


def _unchecked(name: str, why: str) -> UsageError:
    return UsageError(
        f"the rights of the user {name!r} cannot be checked: {why.strip() or 'no answer'}",
        where=_WHERE,
    )
