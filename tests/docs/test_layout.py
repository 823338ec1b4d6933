"""Every module has its tests where one looks for them, and none is too long to be read in one go."""

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MOST_LINES = 400
MOST_LINES_OF_A_FUNCTION = 50
GENERATED = ("aggregation_pb2.py", "aggregation_pb2_grpc.py")
# Functions that may be as long as this for now.
LONGER = {
    ("learning/models/tokens.py", "check_tokenizer"): 54,
}

# Folders of kinds, on all of which one parametrised test runs; and those that have tests by theme.
BY_FOLDER = {
    "learning": "tests/learning",
    "simulation": "tests/simulation",
    "api": "tests/test_api.py",
    "privacy/accounting/accountants": "tests/privacy/accounting/test_every_accountant.py",
    "privacy/gradients/clipping": "tests/privacy/gradients/clipping/test_every_clipping.py",
    "privacy/gradients/engines": "tests/privacy/gradients/engines/test_every_engine.py",
    "privacy/gradients/samplers": "tests/privacy/gradients/samplers/test_every_sampler.py",
    "strategies": "tests/strategies/test_every_strategy.py",
    "server/flower": "tests/server/flower/test_superlink.py",
    "server/trackers": "tests/server/trackers",
}
# Test files of what several modules do together, with these modules.
TOGETHER = {
    "tests/cli/test_audit.py": ("cli/audit_page", "cli/audit_table", "cli/audit_text"),
    "tests/cli/test_check.py": ("client/operator/checks",),
    "tests/cli/test_foreign_text.py": ("cli/model", "cli/rotate"),
    "tests/cli/test_help.py": ("cli/main", "cli/options"),
    "tests/cli/test_plan.py": ("cli/plan_in_words", "planning/prepare"),
    "tests/cli/test_predict.py": ("cli/chat",),
    "tests/cli/test_status.py": (
        "client/operator/accounts",
        "client/operator/status",
        "parties/standing",
        "server/run/status",
    ),
    "tests/attacks/test_answers.py": (
        "client/flower/relay",
        "server/grid_sites",
        "server/round_loop",
    ),
    "tests/attacks/test_logs.py": ("runtime/logs",),
    "tests/client/consent/test_approval.py": ("client/consent/terms",),
    "tests/client/consent/test_refusals.py": ("client/consent/unread", "client/site/mandate"),
    "tests/client/flower/test_relay_user.py": ("client/flower/supernode",),
    "tests/client/operator/test_page.py": ("client/operator/ledger_view",),
    "tests/client/operator/test_rotation.py": ("client/site/witness",),
    "tests/client/test_agent_service.py": ("client/agent",),
    "tests/faults/test_kills.py": ("runtime/faults",),
    "tests/fuzzing/files.py": ("runtime/documents",),
    "tests/parties/test_identity_change.py": ("parties/authority",),
    "tests/parties/test_joining.py": ("cli/roster", "parties/folders"),
    "tests/planning/test_plan_file.py": ("runtime/complaints",),
    "tests/privacy/audit/test_auditor.py": (
        "privacy/audit/chain",
        "privacy/audit/consents",
        "privacy/audit/costs",
        "privacy/audit/evidence",
        "privacy/audit/lineages",
        "privacy/audit/rounds",
        "privacy/audit/rules",
        "privacy/audit/totals",
        "privacy/ledger/reader",
    ),
    "tests/privacy/gradients/test_verification.py": (
        "privacy/gradients/recording",
        "privacy/gradients/rules",
        "privacy/gradients/units",
    ),
    "tests/privacy/ledger/test_journal.py": ("privacy/ledger/schema",),
    "tests/privacy/test_agreement.py": (
        "privacy/accounting/composition",
        "privacy/accounting/events",
        "privacy/accounting/losses",
    ),
    "tests/privacy/test_bundles.py": ("cli/audit_json", "server/audit_report"),
    "tests/privacy/test_planted_bugs.py": ("privacy/step",),
    "tests/protocol/test_privacy.py": ("protocol/numbers",),
    "tests/protocol/test_certificates.py": ("protocol/lifetimes",),
    "tests/protocol/test_settings.py": ("cli/settings",),
    "tests/runtime/test_registry.py": ("protocol/section", "runtime/errors"),
    "tests/server/flower/test_superlink.py": ("runtime/processes", "server/operate"),
    "tests/server/run/test_attendance.py": ("server/news",),
    "tests/server/run/test_results.py": (
        "cli/export",
        "server/evaluation",
        "server/run/records",
        "server/run/store",
    ),
    "tests/server/sums/test_machine.py": ("server/sums/states",),
    "tests/server/test_deployment.py": (
        "cli/client",
        "cli/server",
        "client/flower/pinned_clientapp",
        "server/app",
    ),
    "tests/server/test_resumption.py": ("protocol/transport", "server/sums/service"),
    "tests/server/test_trial.py": ("cli/init",),
    "tests/server/web/test_dashboard.py": ("cli/dashboard", "pages/live"),
    "tests/simulation/attack/test_pipeline.py": ("cli/attack",),
    "tests/simulation/test_baselines.py": ("cli/demo", "cli/rehearsal", "cli/simulate"),
    "tests/simulation/test_crashes.py": ("server/remedies",),
    "tests/protocol/test_identity.py": ("runtime/files",),
}


def product() -> list[Path]:
    """Every module of the package but what protoc has generated."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    folders = [name.split(".")[1:] for name in settings["tool"]["setuptools"]["packages"]]
    paths = (path for folder in folders for path in sorted(ROOT.joinpath(*folder).glob("*.py")))
    return [path for path in paths if path.name not in GENERATED]


def place(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def functions(source: str) -> list[tuple[str, int]]:
    """The functions of a module, nested ones included, and how many lines each has, all told."""
    return [
        (node.name, (node.end_lineno or node.lineno) - node.lineno + 1)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def test_the_package_is_all_there() -> None:
    listed = {place(path.parent) for path in product()}
    top = {"tests", "benchmarks", "examples", "build", "runs"}
    found = {
        place(path.parent)
        for folder in ROOT.iterdir()
        if folder.is_dir() and folder.name not in top and not folder.name.startswith(".")
        for path in folder.rglob("*.py")
    }
    assert found <= listed, "packages in pyproject.toml"


def owner(module: str) -> str:
    """The test file, or the folder of tests, in which a module's tests are looked for."""
    folder, _, name = module.rpartition("/")
    own = f"tests/{folder}/test_{name}.py"
    if (ROOT / own).exists():
        return own
    together = next((tests for tests, modules in TOGETHER.items() if module in modules), None)
    by_folder = (tests for top, tests in BY_FOLDER.items() if f"{folder}/".startswith(f"{top}/"))
    return together or next(by_folder, own)


def test_every_module_has_tests() -> None:
    modules = [place(path).removesuffix(".py") for path in product() if path.name != "__init__.py"]
    missing = [f"{one}: {owner(one)}" for one in modules if not (ROOT / owner(one)).exists()]
    assert not missing, "write a test file of its name, or add it to the table of this file"
    gone = {one for listed in TOGETHER.values() for one in listed}.difference(modules)
    assert not gone, "take them out of the table"


def test_no_module_is_longer_than_400_lines() -> None:
    long = {
        place(path): lines
        for path in product()
        if (lines := path.read_text(encoding="utf-8").count("\n")) > MOST_LINES
    }
    assert not long, "split them by what their parts mean"


def test_no_function_is_longer_than_50_lines() -> None:
    others = [
        path for top in ("tests", "benchmarks", "examples") for path in (ROOT / top).rglob("*.py")
    ]
    long = [
        f"{place(path)}: {name}: {lines}"
        for path in (*product(), *others)
        for name, lines in functions(path.read_text(encoding="utf-8"))
        if lines > LONGER.get((place(path), name), MOST_LINES_OF_A_FUNCTION)
    ]
    assert not long, "split them by what their parts mean"


@pytest.mark.parametrize(
    "source",
    ["def long():\n{body}", "async def long():\n{body}", "class A:\n  def long(self):\n{body}"],
)
def test_a_function_is_measured_wherever_it_stands(source: str) -> None:
    assert functions(source.format(body="    pass\n" * 60)) == [("long", 61)]
