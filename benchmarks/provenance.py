"""Where a figure comes from."""

import subprocess
from pathlib import Path


def measured_commit() -> str:
    """Returns the short hash of the commit that is checked out."""
    command = ["git", "rev-parse", "--short", "HEAD"]
    here = Path(__file__).parent
    done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=True)
    return done.stdout.strip()
