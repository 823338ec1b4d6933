"""Neither the user nor the home, the language or the zone of a process changes what it writes."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from hortus.planning.plan_file import load_plan
from hortus.simulation.simulate import simulate
from tests.conftest import write_tiny_plan

NOBODY = 65534
PROGRAM = "from hortus.cli.main import main; main()"


@pytest.fixture
def folder(tiny_model: Path) -> Iterator[Path]:
    """A folder that other users may enter, unlike pytest's own, with a plan and its model."""
    with TemporaryDirectory(prefix="hortus-") as name:
        directory = Path(name)
        shutil.copytree(tiny_model, directory / "model")
        write_tiny_plan(directory, directory / "model")
        directory.chmod(0o777)
        for path in directory.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        yield directory


def can_be_nobody() -> bool:
    if os.geteuid() != 0:
        return False
    command = [sys.executable, "-c", "import hortus.cli.main"]
    try:
        done = subprocess.run(command, user=NOBODY, cwd="/", check=False, capture_output=True)
    except OSError:
        return False
    return done.returncode == 0


def simulate_as(
    folder: Path, environment: dict[str, str], user: int | None
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM, "simulate", "plan.yaml", "--out", "odd"]
    return subprocess.run(
        command,
        cwd=folder,
        env=environment,
        user=user,
        group=user,
        extra_groups=None if user is None else [],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )


@pytest.mark.timeout(500)
def test_user_home_language_and_zone_change_no_file(folder: Path) -> None:
    """Against the same run in this process."""
    odd = {
        "PATH": os.environ["PATH"],
        "OMP_NUM_THREADS": "1",
        "LC_ALL": "tr_TR.UTF-8",
        "LANG": "tr_TR.UTF-8",
        "TZ": "Pacific/Kiritimati",
        "HOME": "/proc",  # in which nothing can be made
    }
    user = NOBODY if can_be_nobody() else None
    done = simulate_as(folder, odd, user)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    plan = folder / "plan.yaml"
    simulate(load_plan(plan), plan, folder / "plain", lambda *_: None)
    written = [
        {
            path.relative_to(folder / out): re.sub(rb'"run": "\w+"', b"", path.read_bytes())
            for pattern in ("contract.json", "metrics.jsonl", "plan.yaml", "adapter*/**/*.*")
            for path in (folder / out).glob(pattern)
        }
        for out in ("odd", "plain")
    ]
    assert len(written[0]) >= 5
    assert written[0] == written[1]
    if user is not None:
        assert (folder / "odd" / "run.sqlite").stat().st_uid == NOBODY
