"""What `hortus init trial` prints for somebody's own data is what works."""

import subprocess
from pathlib import Path

import pytest
from helpers.ports import free_port

from tests.conftest import write_records
from tests.docs.test_commands import SCRIPTS, run_commands

pytestmark = [pytest.mark.processes, pytest.mark.minutes, pytest.mark.timeout(900)]


def test_a_trial_with_own_data_prints_commands_that_work_as_they_stand(
    tmp_path: Path, tiny_model: Path
) -> None:
    """In a folder with a space in its name, on ports of its own."""
    for site in ("north", "south site", "harbor", "test"):
        write_records(tmp_path / f"{site}.csv", 60)
    trial = [
        *("init", "trial", "own trial", "--model", str(tiny_model), "--unit", "patient"),
        *("--site=north=north.csv", "--site=south=south site.csv", "--site=harbor=harbor.csv"),
        *(
            "--delta=0.001",
            "--epsilon=50",
            "--test=test.csv",
            f"--superlink=127.0.0.1:{free_port()}",
        ),
        f"--aggregation=127.0.0.1:{free_port()}",
    ]
    done = subprocess.run(
        [str(SCRIPTS / "hortus"), *trial], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    printed = [line.strip() for line in done.stdout.splitlines() if line.startswith("  ")]
    assert len(printed) == 2 + 3 + 1 + 3
    agents = [f"{line} &" for line in printed if line.startswith("hortus client")]
    rest = [line for line in printed if not line.startswith("hortus client")]
    rest.insert(-1, "\n".join(agents))
    assert "report " in run_commands("\n".join([*rest, "kill $(jobs -p); wait"]), tmp_path)
