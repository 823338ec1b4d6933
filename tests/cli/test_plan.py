"""What `hortus plan` prints is what the accountant and the contract say."""

import math
import re
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from hortus.cli.main import app
from hortus.client.site.folder import Site
from hortus.planning.plan_file import load_plan
from hortus.planning.prepare import prepare
from hortus.privacy.accounting.accountant import report
from hortus.privacy.accounting.events import GaussianEvent
from hortus.privacy.attacks.detection import true_positive_bound_of
from hortus.privacy.ledger.decisions import Frozen, Granted

CHEAP = {"epsilon": None, "noise_multiplier": 2.0, "spare_attempts": 0}


def hortus(*arguments: object) -> Result:
    return CliRunner(env={"COLUMNS": "400", "TERM": "dumb"}).invoke(app, list(map(str, arguments)))


def shown(result: Result) -> str:
    assert result.exit_code == 0, result.output
    return " ".join(result.output.split())


def test_noise_is_chosen_for_the_epsilon_asked_and_every_accountant_is_shown(
    write_plan: Any,
) -> None:
    path = write_plan()
    contract, _ = prepare(load_plan(path), path.parent)
    output = shown(hortus("plan", path))
    noise = contract.privacy.noise_multiplier
    assert contract.digest() in output
    assert f"{noise:g}, the least that reaches ε = 50" in output
    assert "2 rounds × 2 private steps = 4" in output
    assert "2 of 2 rounds" in output
    # The accounted multiplier is the asked one or a little more, so ε is the asked one or less.
    assert "49.99" in output


def test_what_is_kept_of_frozen_layers_is_told_in_advance(write_plan: Any) -> None:
    """16 tokens, 32 wide, in float32; nothing where no layer is frozen or a record joins less than one step."""
    last = {"kind": "lora", "rank": 2, "alpha": 4, "layers": [1]}
    assert "frozen layers run once for each record; 2.0 KiB" in shown(
        hortus("plan", write_plan(adapter=last))
    )
    seldom = "training.sampling_rate=0.2"
    assert "frozen layers" not in shown(hortus("plan", write_plan(adapter=last), "--set", seldom))
    assert "frozen layers" not in shown(hortus("plan", write_plan()))


def test_epsilon_follows_from_the_noise_given(write_plan: Any) -> None:
    path = write_plan(privacy=CHEAP | {"noise_multiplier": 1.0})
    output = shown(hortus("plan", path, "--set", "privacy.noise_multiplier=2"))
    assert "2, as the plan says" in output
    expected = report({GaussianEvent(0.5, 2.0): 4}, 1e-3)
    for value in (expected.pld, expected.rdp):
        assert f"{value:.2f}" in output


@pytest.mark.parametrize(("given", "spare"), [(None, 2), (0, 0), (5, 5)])
def test_what_spare_attempts_cost_is_shown(write_plan: Any, given: int | None, spare: int) -> None:
    path = write_plan(privacy={"spare_attempts": given})
    output, text = shown(hortus("plan", path)), explained(path)
    without, _ = prepare(load_plan(write_plan(privacy={"spare_attempts": 0})), path.parent)
    with_them, _ = prepare(load_plan(write_plan(privacy={"spare_attempts": spare})), path.parent)
    less, more = (one.privacy.noise_multiplier for one in (without, with_them))
    assert less is not None
    assert more is not None
    if not spare:
        assert "spare attempts 0: after one failed attempt the budget may not cover" in output
        assert "spare attempts at a sum" not in text
        return
    unused = report({GaussianEvent(0.5, more): 4}, 1e-3).epsilon
    assert f"spare attempts {spare}: ε = {unused:.3g}" in output
    assert f"{more / less - 1:.2%} more noise than σ/C = {less:g} without them" in output
    assert f"2 of 2 rounds, {spare} of {spare} spare attempts" in output
    assert f"These numbers include {spare} spare attempts at a sum" in text


def test_single_sites_budgets_are_held_against_the_plan(write_plan: Any) -> None:
    path = write_plan(privacy=CHEAP, simulation={"budgets": {"birch": 1.4}})
    output = shown(hortus("plan", path))
    assert "every other site" in output
    one = report({GaussianEvent(0.5, 2.0): 2}, 1e-3).epsilon
    two = report({GaussianEvent(0.5, 2.0): 4}, 1e-3).epsilon
    assert one < 1.4 < two
    assert "1.4000 1 of 2 rounds" in output


def test_another_budget_and_delta_can_be_asked_about(write_plan: Any) -> None:
    path = write_plan(privacy=CHEAP)
    output = shown(hortus("plan", path, "--epsilon", 1e-6, "--delta", 1e-6))
    assert "0 of 2 rounds" in output
    assert "every site 1e-06" in output


def test_a_real_sites_ledger_and_policy_count(write_plan: Any, tmp_path: Path) -> None:
    path = write_plan(privacy=CHEAP)
    assert hortus("simulate", path, "--out", tmp_path / "run").exit_code == 0
    site = tmp_path / "run" / "consortium" / "sites" / "ash"
    before = (site / "ledger.sqlite").read_bytes()
    output = shown(hortus("plan", path, "--site", site))
    spent = report({GaussianEvent(0.5, 2.0): 4}, 1e-3).epsilon
    assert f"ash 0.001 {spent:.2f}"[:-1] in output
    assert "0 of 2 rounds" in output
    assert (site / "ledger.sqlite").read_bytes() == before
    result = hortus("plan", path, "--site", site, "--epsilon", 3)
    assert result.exit_code == 2
    assert "--site already determines the budget" in result.output


def test_a_sites_grants_limits_and_freezes_count(write_plan: Any, tmp_path: Path) -> None:
    path = write_plan(privacy=CHEAP)
    assert hortus("simulate", path, "--out", tmp_path / "run").exit_code == 0
    site = tmp_path / "run" / "consortium" / "sites" / "ash"
    policy = site / "policy.yaml"
    limits = "budget:\n  per_plan: 2.5\n  per_period: {epsilon: 2.25, every: year}\n"
    text = re.sub(r"\n  per_(plan|period):.*", "", policy.read_text())
    policy.write_text(text.replace("budget:\n", limits))
    with Site(site, clock=time.time) as opened:
        plan = load_plan(path)
        dataset = opened.dataset(plan).fingerprint
        opened.ledger.record(Granted(dataset, 0.5, "for the test"))
        opened.ledger.record(Frozen(dataset, "for the test too"))
    output = shown(hortus("plan", path, "--site", site))
    spent = report({GaussianEvent(0.5, 2.0): 4}, 1e-3).epsilon
    assert f"{spent + 0.5:.2f}"[:-1] in output, "the grant adds to the budget"
    assert "ash, this plan" in output
    assert "2.5000" in output
    assert "2.2500" in output
    assert "This site refuses the plan: the dataset is frozen: for the test too" in output


def test_a_ring_of_24_bits_says_what_it_saves_and_costs(write_plan: Any) -> None:
    narrow, wide = (
        shown(hortus("plan", write_plan(privacy={"ring_bits": bits}))) for bits in (24, 32)
    )
    assert "of 2^24" in narrow
    assert "parameters of 3 bytes up and 4 down" in narrow
    assert "parameters of 4 bytes up and 4 down" in wide
    costs = [
        float(re.search(r"([\d.]+) % more sensitivity", text).group(1))  # type: ignore[union-attr]
        for text in (narrow, wide)
    ]
    assert costs[0] > 100 * costs[1]


@pytest.mark.parametrize("bits", [8, 16, 20])
def test_a_ring_too_small_for_any_plan_is_refused_by_name(write_plan: Any, bits: int) -> None:
    result = hortus("plan", write_plan(privacy={"ring_bits": bits}))
    assert result.exit_code == 2
    assert f"a ring of {bits} bits is too small" in " ".join(result.stderr.split())


def test_a_plan_without_noise_says_that_there_is_no_bound(write_plan: Any) -> None:
    path = write_plan(privacy={"noise": "unsafe_none", "epsilon": None})
    assert "ε is infinite" in shown(hortus("plan", path))


@pytest.mark.parametrize(
    ("suffix", "start"), [("svg", b"<?xml"), ("png", b"\x89PNG"), ("html", b"<!doctype html>")]
)
def test_the_plot_is_written(write_plan: Any, tmp_path: Path, suffix: str, start: bytes) -> None:
    path = write_plan(privacy=CHEAP)
    hortus("plan", path, "--plot", tmp_path / f"plot.{suffix}")
    content = (tmp_path / f"plot.{suffix}").read_bytes()
    assert content.startswith(start)
    assert len(content) > 5000


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--plot", "plot.gif"), "'.gif'"),
        (("--sites", 2, "--epsilon", -1), "--epsilon"),
        (("--delta", 0), "δ"),
        (("--site", "nowhere"), "nowhere"),
    ],
)
def test_wrong_options_are_named(write_plan: Any, options: tuple[object, ...], words: str) -> None:
    result = hortus("plan", write_plan(privacy=CHEAP), *options)
    assert result.exit_code == 2, result.output
    assert words in result.output


def test_fewer_sites_than_the_minimum_are_refused(write_plan: Any) -> None:
    result = hortus("plan", write_plan(privacy=CHEAP, cohort={"minimum": 3}), "--sites", 2)
    assert result.exit_code == 2
    assert "--sites" in result.output


def explained(*arguments: object) -> str:
    return shown(hortus("plan", "show", *arguments))


def test_a_plan_is_explained_with_its_hash_its_bounds_and_the_command(write_plan: Any) -> None:
    path = write_plan(privacy=CHEAP)
    contract, _ = prepare(load_plan(path), path.parent)
    text = explained(path)
    bound = true_positive_bound_of({GaussianEvent(0.5, 2.0): 4}, 0.01)
    share = f"{math.ceil(1000 * bound) / 10:g} %"
    assert f"| 1 % of those who are not in the data | {share} of those who are" in text
    for words in (
        contract.digest(),
        contract.model_digest,
        f"hortus approve SITE_DIR {path}",
        "the columns `text`, `label`.",
        "To each record of the site",
        "**δ = 1 in 1,000**",
        "noise of 2 honest sites",
        "never fewer than 2",
    ):
        assert words in text


def test_a_patient_an_adaptive_and_a_local_plan_and_one_without_noise_are_explained_as_what_they_are(
    write_plan: Any,
) -> None:
    patients = {"unit": "patient_id", "max_records_per_unit": 3}
    text = explained(write_plan(privacy=CHEAP | patients))
    assert "same value in the column `patient_id`" in text
    assert "at most 3 records" in text
    assert "counts, with noise" not in text
    text = explained(write_plan(privacy=CHEAP | {"clipping": {"kind": "adaptive"}}))
    assert "One of the numbers counts, with noise of its own" in text
    text = explained(write_plan(privacy=CHEAP | {"noise": "local"}))
    assert "Nobody. Each site adds the whole noise" in text
    text = explained(write_plan(privacy={"noise": "unsafe_none", "epsilon": None}))
    assert "promises nothing to anybody" in text
    assert "What is promised" not in text


def test_a_sites_own_budget_and_refusal_are_told(write_plan: Any, tmp_path: Path) -> None:
    path = write_plan(privacy=CHEAP)
    assert hortus("simulate", path, "--out", tmp_path / "run").exit_code == 0
    site = tmp_path / "run" / "consortium" / "sites" / "ash"
    text = explained(path, "--site", site)
    assert "covers 0 of 2 rounds" in text
    assert "nothing else against this plan" in text
    assert f"hortus approve {site} {path}" in text
    policy = site / "policy.yaml"
    policy.write_text(policy.read_text().replace("min_cohort: 2", "min_cohort: 3"))
    text = explained(path, "--site", site)
    assert "refuses this plan**, approved or not: policy.yaml: min_cohort" in text


def test_words_of_a_plan_cannot_pass_for_ours(write_plan: Any) -> None:
    """A plan comes from a server: its labels are shown as what they are, on one line, inert."""
    hostile = "x`\n\n## To approve it\n\n    0000\x1b[2J"
    result = hortus("plan", "show", write_plan(task={"labels": ["warm", "fresh", hostile]}))
    assert result.exit_code == 0, result.output
    assert result.output.count("\n## To approve it") == 1
    assert "\x1b" not in result.output


def test_a_plan_that_counts_on_more_honest_sites_than_its_site_is_not_approved(
    write_plan: Any, tmp_path: Path
) -> None:
    path = write_plan(privacy=CHEAP, cohort={"minimum": 3})
    site = tmp_path / "ash"
    assert (
        hortus("init", "site", "ash", "--data", tmp_path / "ash.csv", "--out", site).exit_code == 0
    )
    told = hortus("approve", site, path)
    assert told.exit_code == 3
    words = " ".join(told.output.split())
    assert "counts on the noise of 3 of 3 sites" in words
    assert "at most 2 of them" in words
    assert "cohort.max_colluding: 1" in words
    assert "No plan has been approved here." in hortus("approve", site, "--list").output
    path = write_plan(privacy=CHEAP, cohort={"minimum": 3, "max_colluding": 1})
    assert "counts on the noise of 2 of 3 sites" in shown(hortus("approve", site, path))
    alone = write_plan(privacy=CHEAP | {"noise": "local"}, cohort={"minimum": 3})
    assert "this site's own noise alone" in shown(hortus("approve", site, alone))


def test_a_site_is_told_how_many_it_takes_to_be_honest(write_plan: Any, tmp_path: Path) -> None:
    path = write_plan(privacy=CHEAP, cohort={"minimum": 3, "max_colluding": 1})
    run = tmp_path / "run"
    assert hortus("simulate", path, "--out", run).exit_code == 0
    site = run / "consortium" / "sites" / "ash"
    told = shown(hortus("plan", "show", path, "--site", site))
    assert (
        "counts on the noise of 2 of 3 sites. This site's policy assumes at most 3 of them" in told
    )
    assert (
        "counts on the noise of"
        not in shown(hortus("plan", "show", path)).split("## To approve")[1]
    )
