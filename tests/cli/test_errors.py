"""Bad input as a person meets it: one screen, where, what, a remedy, and the right exit code."""

import csv
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from hortus.cli.display import RoundsDisplay
from hortus.cli.main import app
from hortus.planning.plan_file import load_plan
from hortus.privacy.ledger.store import Ledger

USAGE, REFUSED = 2, 3


def hortus(*arguments: str) -> Result:
    # A fixed width, so that no word that a test looks for is broken by the panel.
    return CliRunner(env={"COLUMNS": "400", "TERM": "dumb"}).invoke(app, list(arguments))


def edit(path: Path, old: str, new: str) -> Path:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return path


def fails(result: Result, code: int, *words: str) -> None:
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    assert len(result.output.splitlines()) <= 25
    for word in words:
        assert word in result.output


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("privacy:", "privcy:", ("privcy", "privacy")),
        ("sampling_rate:", "samplin_rate:", ("training.samplin_rate", "sampling_rate")),
        ("noise: distributed", "noise: both", ("privacy.noise", "both", "distributed")),
        ("sampling_rate: 0.5", "sampling_rate: 1.5", ("training.sampling_rate", "1.5")),
        ("epsilon: 50.0", "epsilon: -1", ("privacy.epsilon", "-1")),
        ("privacy:", "privacy:\n  unit: patient", ("privacy", "max_records_per_unit")),
        ("privacy:", "privacy:\n  max_records_per_unit: 3", ("privacy", "max_records_per_unit")),
        ("privacy:", "privacy:\n  clipping: {kind: flt}", ("privacy.clipping.kind", "flat")),
        ("privacy:", "privacy:\n  clipping: {quantile: 0.5}", ("privacy.clipping", "quantile")),
        ("privacy:", "privacy:\n  clipping: {kind: adaptive, largest: 0.5}", ("clipping.largest",)),
        (
            "privacy:",
            "privacy:\n  unit: patient\n  max_records_per_unit: 999",
            ("max_records_per_unit is more than training.micro_batch",),
        ),
        ("kind: lora", "kind: head", ("adapter.rank", "there is no such key")),
        ("rank: 2", "layers: []", ("adapter.layers", "at least 1")),
        ("kind: Adam", "options: {nesterov: true}", ("strategy.server_optimizer", "kind", "SGD")),
        ("kind: Adam", "kind: Adm", ("strategy.server_optimizer.kind", "Did you mean 'Adam'")),
        ("kind: fedsgd", "kind: fedsdg", ("strategy.kind", "Did you mean 'fedsgd'")),
        ("kind: fedsgd", "kind: fedavg", ("strategy.local_optimizer", "missing")),
        (
            "kind: Adam",
            "options: {momentun: 1.0}\n    kind: SGD",
            ("strategy.server_optimizer", "momentun"),
        ),
        (
            "kind: Adam",
            "options: {betas: [2.0, 1.0]}\n    kind: Adam",
            ("strategy.server_optimizer", "beta"),
        ),
        (
            "kind: Adam",
            "options: {eps: .nan}\n    kind: Adam",
            ("server_optimizer.options", "finite"),
        ),
        ("rounds: 2", "rounds: two", ("training.rounds", "two")),
        ("minimum: 2", "minimum: 1", ("cohort.minimum",)),
        ("name: tiny", "name: [tiny", ("line",)),
        ("ash: ash.csv", "ash: nowhere.csv", ("nowhere.csv", "no such file")),
    ],
)
def test_a_plan_that_is_wrong_names_the_place_and_the_remedy(
    write_plan: Any, tmp_path: Path, old: str, new: str, words: tuple[str, ...]
) -> None:
    plan = edit(write_plan(), old, new)
    fails(hortus("simulate", str(plan), "--out", str(tmp_path / "run")), USAGE, *words)


def test_a_byte_order_mark_is_no_part_of_a_label(write_plan: Any, tmp_path: Path) -> None:
    labels = ("warm", "fresh", "cool")
    (tmp_path / "labels.txt").write_text("\n".join(labels), encoding="utf-8-sig")
    plan = load_plan(write_plan(task={"labels": "labels.txt"}))
    assert plan.task.fields["labels"] == list(labels)


def test_a_missing_plan_is_named(tmp_path: Path) -> None:
    fails(hortus("simulate", str(tmp_path / "no.yaml")), USAGE, "no.yaml")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"text,label\n", ("no records",)),
        (b"txt,label\nthe sky,cool\n", ("'text'", "Did you mean 'txt'")),
        (b"text,label\nthe sky,cold\n", ("line 2", "'cold'", "Did you mean 'cool'")),
        (b"text,label\nthe sky,cool\n  ,cool\n", ("line 3", "empty")),
        (b"text,label\nthe sk\xff,cool\n", ("line 2", "0xff", "UTF-8")),
        (b"text,label\nthe sky,cool,blue\n", ("line 2",)),
    ],
    ids=["empty site", "wrong column", "foreign label", "empty text", "not UTF-8", "ragged row"],
)
def test_data_that_is_wrong_names_file_and_row(
    write_plan: Any, tmp_path: Path, content: bytes, words: tuple[str, ...]
) -> None:
    plan = write_plan()
    (tmp_path / "birch.csv").write_bytes(content)
    result = hortus("simulate", str(plan), "--out", str(tmp_path / "run"))
    fails(result, USAGE, "birch.csv", *words)
    assert "the sky" not in result.output, "a record's text must never be shown"


def test_malformed_json_names_line_and_column(write_plan: Any, tmp_path: Path) -> None:
    plan = edit(write_plan(), "birch.csv", "birch.jsonl")
    (tmp_path / "birch.jsonl").write_text('{"text": "a", "label": "cool"}\n{"text": }\n')
    fails(hortus("simulate", str(plan), "--out", str(tmp_path / "run")), USAGE, "line 2")


def test_a_class_that_no_site_has_is_named(write_plan: Any, tmp_path: Path) -> None:
    plan = write_plan(task={"labels": ["warm", "fresh", "cool", "mild"]})
    fails(hortus("simulate", str(plan), "--out", str(tmp_path / "run")), USAGE, "'mild'")


def test_a_class_that_one_site_lacks_is_no_error(write_plan: Any, tmp_path: Path) -> None:
    plan = write_plan(training={"rounds": 1})
    rows = [
        row for row in csv.DictReader((tmp_path / "birch.csv").open()) if row["label"] != "cool"
    ]
    with (tmp_path / "birch.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    result = hortus("simulate", str(plan), "--out", str(tmp_path / "run"))
    assert result.exit_code == 0, result.output


def test_a_missing_model_says_that_no_hub_is_asked(write_plan: Any, tmp_path: Path) -> None:
    plan = write_plan(model="bert-base-uncased")
    fails(hortus("simulate", str(plan)), USAGE, "bert-base-uncased", "no hub")
    plan = write_plan(model="package:no_such_package/model")
    fails(hortus("simulate", str(plan)), USAGE, "pip install no-such-package")


def test_a_cohort_below_the_minimum_is_refused_with_every_reason(
    write_plan: Any, tmp_path: Path
) -> None:
    plan = write_plan(simulation={"budgets": {"ash": 0.001, "birch": 0.001}})
    result = hortus("simulate", str(plan), "--out", str(tmp_path / "run"))
    fails(result, REFUSED, "1 of 3 connected sites would take part", "ash:", "birch:", "of 0.001")


def test_a_simulation_leaves_adapter_report_and_ledgers_and_the_audit_holds(
    write_plan: Any, tmp_path: Path
) -> None:
    plan, out = write_plan(), tmp_path / "run"
    result = hortus("simulate", str(plan), "--out", str(out))
    assert result.exit_code == 0, result.output
    assert (out / "adapter" / "adapter_model.safetensors").is_file()
    assert (out / "metrics.jsonl").read_text().count("\n") == 2
    assert "</html>" in (out / "report.html").read_text()
    audit = hortus("audit", str(out))
    assert audit.exit_code == 0, audit.output
    assert audit.output.count("hold") == 3
    one = hortus("audit", str(out / "consortium" / "sites" / "ash"))
    assert one.exit_code == 0, one.output


def test_an_audit_of_a_changed_ledger_fails_and_names_the_entry(
    write_plan: Any, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    hortus("simulate", str(write_plan()), "--out", str(out))
    site = out / "consortium" / "sites"
    # Birch's ledger in ash's place: whole in itself, but signed by another.
    shutil.copy(site / "birch" / "ledger.sqlite", site / "ash" / "ledger.sqlite")
    result = hortus("audit", str(site / "ash"))
    assert result.exit_code == 1
    assert "entry 1" in result.output


def test_an_audit_of_nothing_is_explained(tmp_path: Path) -> None:
    fails(hortus("audit", str(tmp_path)), USAGE, "no site")


@pytest.mark.parametrize("item", ["ash", "ash=nowhere.csv"])
def test_init_explains_a_site_without_data(tmp_path: Path, item: str) -> None:
    fails(hortus("init", "trial", str(tmp_path / "c"), "--site", item), USAGE, "NAME=DATA")
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (("North Ward",), "Call it 'north-ward'"),
        (("Zürich",), "Call it 'zurich'"),
        (("東京",), "cannot name a site"),
        (("[red]ash",), "'[red]ash' cannot name a site"),
        (("ash", "birch", "ash"), "two sites are called 'ash'"),
        (("server",), "the server's name"),
        (("",), "'' cannot name a site"),
    ],
)
def test_init_explains_names_that_sites_cannot_have(
    tmp_path: Path, names: tuple[str, ...], told: str
) -> None:
    (tmp_path / "data.csv").write_text("text,label\n")
    options = [f"--site={name}={tmp_path / 'data.csv'}" for name in names]
    fails(hortus("init", "trial", str(tmp_path / "c"), *options), USAGE, told)
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("site", "Bad_Name", "--data", "."), "'Bad_Name' cannot name a site"),
        (("site", "ash", "--data", ".", "--epsilon", "-1"), "epsilon: -1.0 → should be greater"),
        (("server", "localhost", "--aggregation-port", "70000"), "it is not a host and port"),
    ],
)
def test_init_explains_an_option_that_cannot_be(
    tmp_path: Path, options: tuple[str, ...], problem: str
) -> None:
    out = tmp_path / "party"
    fails(hortus("init", *options, "--out", str(out)), USAGE, problem)
    assert not out.exists()


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("status", "not a contract of this version"),
        ("audit", "the run cannot be read"),
        ("dashboard", "not a contract of this version"),
    ],
)
def test_a_damaged_run_is_named(tmp_path: Path, command: str, problem: str) -> None:
    (tmp_path / "contract.json").write_text("{")
    (tmp_path / "run.sqlite").touch()
    fails(hortus(command, str(tmp_path)), 1, problem)


def test_init_makes_a_consortium_that_only_its_owner_can_read(tmp_path: Path) -> None:
    result = hortus("init", "trial", str(tmp_path / "c"))
    assert result.exit_code == 0, result.output
    keys = [*(tmp_path / "c").rglob("*.key"), *(tmp_path / "c").rglob("*.pem")]
    assert len(keys) >= 12
    assert all(path.stat().st_mode & 0o077 == 0 for path in keys)
    plan = yaml.safe_load((tmp_path / "c" / "plan.yaml").read_text())
    assert plan["cohort"]["minimum"] == 3
    again = hortus("init", "trial", str(tmp_path / "c"))
    fails(again, USAGE, "exists already")


def test_a_defect_shows_no_traceback_unless_asked(
    write_plan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a record's text")

    monkeypatch.setattr(Ledger, "commit", broken)
    plan = str(write_plan())
    result = hortus("simulate", plan, "--out", str(tmp_path / "run"))
    fails(result, 1, "a defect of Hortus")
    assert "a record's text" not in result.output
    assert isinstance(
        hortus("--debug", "simulate", plan, "--out", str(tmp_path / "other")).exception,
        RuntimeError,
    )


def test_an_interrupt_is_told_and_the_same_command_resumes(
    write_plan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    plan = str(write_plan())
    with monkeypatch.context() as patch:
        patch.setattr(RoundsDisplay, "add", interrupted)
        result = hortus("simulate", plan, "--out", str(tmp_path / "run"))
    assert result.exit_code == 130
    assert "to resume" in result.output
    assert hortus("simulate", plan, "--out", str(tmp_path / "run")).exit_code == 0


@pytest.mark.parametrize(
    "command", ["demo", "simulate", "init", "roster", "approve", "server", "client", "audit"]
)
def test_every_command_explains_itself(command: str) -> None:
    result = hortus(command, "--help")
    assert result.exit_code == 0
    assert len(result.output.splitlines()) > 6
