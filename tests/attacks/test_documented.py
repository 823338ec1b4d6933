"""The threat model names the test of each attack; a test that was renamed must not leave a gap."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_test_that_the_threat_model_names_exists() -> None:
    named = set(re.findall(r"`(test_[a-z_]+)`", (ROOT / "docs/threat-model.md").read_text()))
    suite = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    there = set(re.findall(r"^def (test_\w+)", suite, re.MULTILINE))
    assert len(named) > 20
    assert named <= there
