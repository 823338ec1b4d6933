"""A command that needs neither torch nor Flower starts without them: they take seconds to load.

What is counted is modules: how long they take to load depends on what else the machine does.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.charges import approve, make_charge

from hortus.privacy.audit.evidence import export, read_evidence
from hortus.privacy.ledger.store import Ledger
from hortus.protocol.identity import Identity, Roster
from hortus.protocol.policy import Budget
from hortus.runtime.names import SERVER

BUDGET = Budget(epsilon=10, delta=1e-5)
HEAVY = ("torch", "flwr", "transformers", "matplotlib", "opacus", "dp_accounting", "scipy")
# Loaded in a hundredth of a second each, or more: a slip is answered without them.
NEEDLESS = {
    "cryptography",
    "numpy",
    "grpc",
    "fastapi",
    "asyncio",
    "sqlite3",
    "rich.live",
    "rich.markdown",
}
# Of which Python, typer, rich, pydantic and yaml load 330, in 0.3 seconds of a processor.
MOST_MODULES = 420
PROGRAM = f"""
import json, sys
from hortus.cli.main import app
try:
    app(sys.argv[1:])
except SystemExit as ended:
    code = ended.code
heavy = [name for name in {HEAVY} if name in sys.modules]
print(json.dumps(sorted(sys.modules)), file=sys.stderr)
print(json.dumps([code, heavy]), file=sys.stderr)
"""
SLIPS = {
    "no YAML": "name: [slip",
    "an unknown key": "name: slip\ntraning: {rounds: 1}\n",
    "a wrong value": "name: slip\ntraining: {rounds: -1}\n",
    "no label file": "name: slip\ntask: {labels: none.txt}\n",
    "no base model": "name: slip\nmodel: none\ntask: {labels: [a, b]}\nprivacy: {epsilon: 8}\n"
    "training: {rounds: 1, sampling_rate: 0.5, nominal_units: 9}\n",
    "no file": None,
}
READ_A_PLAN = [
    ["plan"],
    ["plan", "show"],
    ["simulate"],
    ["server"],
    ["approve", "site"],
    ["audit", "attack"],
]


def start(*command: str) -> str:
    """Runs a command; returns its exit code and the heavy libraries that it has loaded."""
    return run(*command)[-1]


def run(*command: str) -> list[str]:
    """Runs a command; returns all modules that it has loaded, and the same as `start`."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *command],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.stderr.splitlines()[-2:]


@pytest.mark.parametrize(
    "command",
    [
        ["--help"],
        ["plan", "budget", "--help"],
        ["audit", "--help"],
        ["init", "--help"],
        ["roster", "add", "--help"],
        ["client", "--help"],
    ],
)
def test_help_loads_no_heavy_library(command: list[str]) -> None:
    assert start(*command) == "[0, []]"


def test_the_list_of_commands_imports_none_of_them() -> None:
    loaded = json.loads(run("--help")[0])
    assert "pydantic" not in loaded
    assert not {name for name in loaded if name.startswith("hortus.protocol")}


@pytest.mark.parametrize("command", READ_A_PLAN, ids=" ".join)
def test_a_slip_in_a_plan_is_told_before_anything_loads_that_takes_long(
    tmp_path: Path, command: list[str]
) -> None:
    answered_soon(tmp_path, command, SLIPS["an unknown key"])


@pytest.mark.parametrize("slip", SLIPS.values(), ids=SLIPS.keys())
def test_so_is_every_other_kind_of_slip(tmp_path: Path, slip: str | None) -> None:
    answered_soon(tmp_path, ["simulate"], slip)


def answered_soon(folder: Path, command: list[str], slip: str | None) -> None:
    path = folder / "plan.yaml"
    if slip is not None:
        path.write_text(slip, encoding="utf-8")
    modules, said = run(*command, str(path))
    assert said == "[2, []]"
    loaded = json.loads(modules)
    assert not NEEDLESS & set(loaded)
    assert len(loaded) < MOST_MODULES


def test_keys_and_rosters_need_no_heavy_library(tmp_path: Path) -> None:
    server = str(tmp_path / "server")
    assert start("init", "server", "127.0.0.1", "--out", server) == "[0, []]"
    assert start("roster", "show", server) == "[0, []]"


def test_an_audit_needs_neither_torch_nor_flower_nor_the_accountant_that_charged(
    tmp_path: Path,
) -> None:
    site = Identity.generate("ash")
    ledger = Ledger.open(tmp_path / "ledger.sqlite", site, lambda: 1.8e9)
    approve(ledger)
    for step in range(3):
        ledger.charge(make_charge(step=step), BUDGET)
    ledger.close()
    roster = Roster({"ash": site.public_key_bytes}, Identity.generate(SERVER).public_key_bytes)
    evidence = read_evidence("ash", tmp_path / "ledger.sqlite", roster, {})
    bundle = tmp_path / "ash.evidence"
    export(evidence, bundle)
    assert start("audit", str(bundle)) == '[4, ["scipy"]]'
    page = str(tmp_path / "audit.html")
    assert (
        start("audit", str(bundle), "--html", page)
        == '[4, ["matplotlib", "dp_accounting", "scipy"]]'
    )


def test_epsilon_is_told_without_opacus_whose_estimate_alone_needs_it() -> None:
    program = "import sys, hortus.privacy.accounting.accountant; print('opacus' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False False\n"
