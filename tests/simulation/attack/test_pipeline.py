"""The attack on the real pipeline with the tiny model: it finds what is there, and nothing more."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from hortus.cli.main import app
from hortus.planning.plan_file import load_plan
from hortus.privacy.attacks.membership_inference import Roc
from hortus.privacy.gradients.workbench import Workbench
from hortus.privacy.noise import discrete_gaussian
from hortus.runtime.errors import UsageError
from hortus.simulation.attack.pipeline import Setting, attack, plant, split
from hortus.simulation.attack.verdict import Verdict, judge, write_page
from tests.helpers.labelled import labelled, labels_of, texts_of

pytestmark = pytest.mark.minutes

SETTING = Setting(trainings=4, site="birch", canaries=40)
# Few steps: each training takes about a second.
QUICK: dict[str, Any] = {"training": {"rounds": 3, "steps_per_round": 2, "sampling_rate": 1.0}}
CLAIM = 0.5
COLOURS = ("red", "green", "blue")
WORDS = ("apple", "grass", "sky", "rose", "leaf", "sea", "fire", "tree", "ice", "the", "is", "a")
LABELS = ("warm", "fresh", "cool")


@pytest.fixture
def write_plan(write_plan: Any, tmp_path: Path) -> Any:
    """The tiny plan with records that differ from one another: ten random words each."""

    def write(**changes: Any) -> Path:
        path: Path = write_plan(**changes)
        generator = np.random.default_rng(8)
        for site in ("ash", "birch", "cedar"):
            texts = [" ".join(generator.choice(COLOURS + WORDS, 10)) for _ in range(80)]
            rows = [f"{text},{LABELS[len(text) % 3]}" for text in texts]
            (tmp_path / f"{site}.csv").write_text("\n".join(["text,label", *rows]) + "\n")
        return path

    return write


def private(**changes: Any) -> dict[str, Any]:
    return QUICK | {"privacy": {"noise": "local", "epsilon": CLAIM, "delta": 1e-5} | changes}


def found(path: Path, out: Path) -> Verdict:
    return judge(attack(load_plan(path), path.parent, out, SETTING, lambda *_: None), 0.95)


def test_a_plan_without_noise_is_seen_through(write_plan: Any, tmp_path: Path) -> None:
    strategy = {"server_optimizer": {"kind": "Adam", "learning_rate": 0.02}}
    path = write_plan(
        training=QUICK["training"] | {"rounds": 8},
        strategy=strategy,
        privacy={"noise": "unsafe_none", "epsilon": None},
    )
    setting = Setting(trainings=5, site="birch", canaries=40)
    seen = attack(load_plan(path), path.parent, tmp_path / "out", setting, lambda *_: None)
    verdict = judge(seen, 0.95)
    assert verdict.bound.epsilon > 0
    assert verdict.observer.area > 0.99
    assert verdict.shadow.area > 0.65
    assert verdict.shadow.area > Roc.of(seen.confidence.ravel(), seen.present.ravel()).area
    assert not verdict.exposed, "it claims nothing"
    assert "promises no limit" in verdict.sentence


def test_a_private_plan_leaks_no_more_than_it_claims(write_plan: Any, tmp_path: Path) -> None:
    """The bound is above the truth in one of twenty trials at most; the seeds are fixed."""
    verdict = found(write_plan(**private()), tmp_path / "out")
    assert verdict.bound.epsilon <= verdict.claim <= CLAIM
    assert not verdict.exposed
    assert "does not contradict" in verdict.sentence
    for one in verdict.detections:
        assert one.bound <= one.point
        assert one.bound < 0.05


def test_noise_switched_off_by_a_planted_bug_is_exposed(
    write_plan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent(_sigma: int, size: int, _stream: object) -> NDArray[np.int64]:
        return np.zeros(size, np.int64)

    monkeypatch.setattr(discrete_gaussian, "sample", silent)
    verdict = found(write_plan(**private()), tmp_path / "out")
    assert verdict.exposed
    assert "the claim is false" in verdict.sentence


def test_it_goes_on_after_the_last_training_and_refuses_another_plans_folder(
    write_plan: Any, tmp_path: Path
) -> None:
    path, out = write_plan(**private()), tmp_path / "out"
    plan = load_plan(path)

    def stop(done: int, _steps: int) -> None:
        if done == 8:  # in the second training
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attack(plan, path.parent, out, SETTING, stop)
    assert [file.name for file in sorted(out.glob("*.npz"))] == ["training-001.npz"]
    kept = (out / "training-001.npz").stat().st_mtime_ns
    resumed = attack(plan, path.parent, out, SETTING, lambda *_: None)
    whole = attack(plan, path.parent, tmp_path / "whole", SETTING, lambda *_: None)
    assert (out / "training-001.npz").stat().st_mtime_ns == kept
    assert np.array_equal(resumed.scores, whole.scores)
    assert np.array_equal(resumed.present, whole.present)
    with pytest.raises(UsageError, match="are of another "):
        attack(plan, path.parent, out, Setting(4, "ash", 40), lambda *_: None)


def test_canaries_are_taken_out_and_get_a_wrong_label(write_plan: Any) -> None:
    own = labelled(
        tuple(f"the sky {n}" for n in range(40)), np.arange(40) % 3, (), tuple("ab" * 20)
    )
    rest, taken = split(own, 15, seed=1)
    assert not set(texts_of(rest)) & set(texts_of(taken))
    assert len(rest) + len(taken) == 40
    plan = load_plan(write_plan())
    planted = plant(taken, (), Workbench(plan, Path(plan.model), shares_passes=False))
    assert planted.units.tolist() == list(range(15))
    right = labels_of(taken)
    assert all(one.target != label for one, label in zip(planted.examples, right, strict=True))


@pytest.mark.parametrize("count", [0, 9, 40, 41])
def test_too_few_or_too_many_canaries_are_refused(count: int) -> None:
    own = labelled(tuple(map(str, range(40))), np.arange(40) % 3)
    with pytest.raises(UsageError, match="canaries"):
        split(own, count, seed=1)


def test_the_command_writes_a_page_and_ends_with_the_sentence(
    write_plan: Any, tmp_path: Path
) -> None:
    path = write_plan(**private())
    arguments = ["audit", "attack", str(path), "--trainings", "3", "--canaries", "20"]
    result = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"}).invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "for every attack." in result.output.splitlines()[-1]
    assert "This was a rehearsal: its noise came from the plan's seed" in result.output
    page = (tmp_path / "runs" / "tiny-attack" / "attack.html").read_text()
    assert "does not contradict the promise" in page
    assert "It was a rehearsal." in page
    assert "<svg" in page
    assert "src=" not in page
    assert "https://" not in page.replace("http://www.w3.org", "")
    wrong = CliRunner().invoke(app, ["audit", "attack", str(path), "--site", "oak"])
    assert wrong.exit_code == 2
    assert "no site 'oak'" in wrong.output


def test_a_page_says_when_a_claim_is_false(
    write_plan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        discrete_gaussian, "sample", lambda _sigma, size, _stream: np.zeros(size, np.int64)
    )
    verdict = found(write_plan(**private()), tmp_path / "out")
    write_page(verdict, tmp_path / "page.html")
    assert "the claim is false for this program" in (tmp_path / "page.html").read_text()
