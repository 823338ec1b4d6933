"""The user that Flower's programs run as beside an agent: one that can read nothing of the site.

Flower's SuperNode is a large program that talks to the server. Under the agent's own user, a defect
in it would reach the site's keys; under another, the operating system keeps them apart.
"""

import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from hortus.protocol.errors import UsageError

_CHECK_SECONDS = 60.0
_WHERE = "site.yaml: relay_user"


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
            UsageError: There is none, it is root, it is the agent's own, or it may not be taken on.
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
                f"this process may not start programs as {name!r}",
                where=_WHERE,
                remedy="Start hortus client as root, or leave relay_user out.",
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

    def check_apart(self, secrets: Iterable[Path], needed: Path) -> None:
        """Makes sure that the user can read what it needs and nothing that is the site's own.

        Args:
            secrets: Files that it must not be able to read.
            needed: A file that it must be able to read.

        Raises:
            UsageError: It names the file, or what is missing.
        """
        for path in secrets:
            if path.exists() and self._can_read(path):
                raise UsageError(
                    f"the user {self.name!r}, which Flower's programs run as, can read this",
                    where=str(path),
                    remedy=f"chmod o-r {path}, or take {self.name} out of the group that may.",
                )
        if not self._can_read(needed):
            raise UsageError(
                f"the user {self.name!r}, which Flower's programs run as, cannot reach this",
                where=str(needed),
                remedy="Let it pass the folders above: chmod o+x (it still cannot list them).",
            )
        try:
            imported = self._run([sys.executable, "-c", "import hortus.client.relay"])
            problem = imported.stderr.decode(errors="replace") if imported.returncode else ""
        except PermissionError as error:
            problem = str(error)
        if problem:
            raise UsageError(
                f"the user {self.name!r} cannot run this Python environment: {problem[-300:].strip()}",
                where=sys.prefix,
                remedy="Install Hortus, and the Python it runs on, where every user may read them, "
                "such as /opt/hortus.",
            )

    def _can_read(self, path: Path) -> bool:
        return self._run(["test", "-r", str(path)]).returncode == 0

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
