"""A trained model in every form answers as it did, other libraries open it, and nobody's folder is overwritten."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import transformers
import yaml
from helpers.tiny_models import ARCHITECTURES, save_for_task
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner, Result

import hortus
from hortus.cli.main import app
from hortus.learning.exports import merging
from hortus.learning.exports.form import Form
from tests.conftest import write_tiny_plan
from tests.simulation.test_every_task import conversations, sentences

SITES = ("ash", "birch", "cedar")
TEXTS = ["the sky is blue", "a rose is red", "grass", "the leaf is green the tree is green"]
CLASSIFIER = {"labels": ["warm", "fresh", "cool"], "max_length": 16}


def trained(folder: Path, name: str, **sections: Any) -> hortus.Run:
    """A run of one round of a task for which a tiny model is known."""
    folder.mkdir(parents=True)
    task, model, rows = {
        "chat": ({"kind": "chat", "max_length": 16}, "llama", conversations(24)),
        "tags": (
            {"kind": "token-classification", "entities": ["Colour"], "max_length": 16},
            "bert",
            sentences(24),
        ),
    }[name]
    save_for_task(model, folder / "model")
    for site in (*SITES, "public"):
        (folder / f"{site}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    fields: dict[str, Any] = {
        "name": name,
        "model": "model",
        "task": task,
        "adapter": {"kind": "lora", "rank": 2, "targets": list(ARCHITECTURES[model].targets)},
        "strategy": {"kind": "fedsgd", "server_optimizer": {"kind": "Adam", "learning_rate": 0.1}},
        "training": {
            "rounds": 1,
            "steps_per_round": 2,
            "sampling_rate": 0.5,
            "nominal_units": 24,
        },
        "privacy": {"noise": "unsafe_none"},
        "evaluation": "public.jsonl",
        "simulation": {"sites": {site: f"{site}.jsonl" for site in SITES}},
    }
    return hortus.simulate(hortus.Plan(**(fields | sections), folder=folder))


@pytest.fixture(scope="module")
def pooled(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> hortus.Run:
    folder = tmp_path_factory.mktemp("pooled")
    path = write_tiny_plan(folder, tiny_model, training={"rounds": 3, "steps_per_round": 1})
    return hortus.simulate(hortus.Plan.load(path))


@pytest.fixture(scope="module")
def dora(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> hortus.Run:
    """Transformers' own head, and an adapter whose merging is not a sum."""
    folder = tmp_path_factory.mktemp("dora")
    changes: dict[str, Any] = {
        "task": CLASSIFIER | {"kind": "text-classification", "head": "sequence"},
        "adapter": {"kind": "dora", "rank": 2},
        "training": {"rounds": 1},
    }
    return hortus.simulate(hortus.Plan.load(write_tiny_plan(folder, tiny_model, **changes)))


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> hortus.Run:
    return trained(tmp_path_factory.mktemp("chat") / "here", "chat")


def shares(logits: Any) -> np.ndarray:
    powers = np.exp(np.asarray(logits, np.float64))
    return powers / powers.sum(1, keepdims=True)


def probabilities(run: hortus.Run) -> list[float]:
    return [answer.probability for answer in hortus.load(run).predict(TEXTS)]


def test_a_pooled_classifier_opens_in_sentence_transformers(
    pooled: hortus.Run, tmp_path: Path
) -> None:
    library = pytest.importorskip("sentence_transformers")
    out = hortus.load(pooled).export(tmp_path / "merged", "merged")
    opened = library.SentenceTransformer(str(out), device="cpu")
    found = shares(opened.encode(TEXTS))
    assert found.max(1) == pytest.approx(probabilities(pooled), abs=1e-4)
    config = transformers.AutoModel.from_pretrained(out).config
    names = [config.id2label[number] for number in found.argmax(1)]
    assert names == [answer.label for answer in hortus.load(pooled).predict(TEXTS)]


def test_a_merged_classifier_opens_in_a_pipeline(dora: hortus.Run, tmp_path: Path) -> None:
    model = hortus.load(dora)
    before = model.predict(TEXTS)
    out = model.export(tmp_path / "merged", Form.MERGED)
    assert model.predict(TEXTS) == before  # it can still be used
    pipe = transformers.pipeline("text-classification", model=str(out), device="cpu")
    found = pipe(TEXTS)
    assert [one["label"] for one in found] == [answer.label for answer in before]
    assert [one["score"] for one in found] == pytest.approx(
        [answer.probability for answer in before], abs=1e-4
    )


def test_a_merged_language_model_says_the_same(talker: hortus.Run, tmp_path: Path) -> None:
    model = hortus.load(talker)
    out = model.export(tmp_path / "merged", "merged")
    opened, tokenizer = (
        AutoModelForCausalLM.from_pretrained(out),
        AutoTokenizer.from_pretrained(out),
    )
    asked = [{"role": "user", "content": "sky"}]
    text = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    tokens = tokenizer(text, return_tensors="pt", add_special_tokens=False)
    width = tokens["input_ids"].shape[1]
    said = opened.generate(**tokens, max_new_tokens=5, do_sample=False)[0, width:]
    assert tokenizer.decode(said, skip_special_tokens=True).strip() == model.generate(
        "sky", max_new_tokens=5
    )
    names = {name for name, _ in opened.named_parameters()}
    assert not any("lora" in name for name in names)


@pytest.mark.parametrize("which", ["pooled", "dora"])
def test_an_onnx_graph_answers_in_onnxruntime(
    which: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    run: hortus.Run = request.getfixturevalue(which)
    out = hortus.load(run).export(tmp_path / "onnx", "onnx")
    tokenizer = AutoTokenizer.from_pretrained(out)
    session = onnxruntime.InferenceSession(str(out / "model.onnx"))
    for texts in (TEXTS, TEXTS[:1], TEXTS[2:3], TEXTS[1:4]):
        tokens = tokenizer(texts, return_tensors="np", padding=True)
        inputs = {one.name: tokens[one.name] for one in session.get_inputs()}
        (logits,) = session.run(None, inputs)
        expected = hortus.load(run).predict(texts)
        assert shares(logits).max(1) == pytest.approx(
            [one.probability for one in expected], abs=1e-4
        )


def test_tags_are_exported_as_onnx_by_token(tmp_path: Path) -> None:
    run = trained(tmp_path / "tags", "tags")
    out = hortus.load(run).export(tmp_path / "onnx", "onnx")
    session = onnxruntime.InferenceSession(str(out / "model.onnx"))
    (output,) = session.get_outputs()
    assert output.shape[:2] == ["batch", "length"]
    assert json.loads((out / "config.json").read_text())["id2label"]["1"] == "B-Colour"


def test_a_model_that_writes_is_not_exported_as_onnx(talker: hortus.Run, tmp_path: Path) -> None:
    with pytest.raises(hortus.HortusError, match="writes texts.*--as merged"):
        hortus.load(talker).export(tmp_path / "onnx", "onnx")
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_would_compute_something_else_is_not_written(
    pooled: hortus.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = hortus.load(pooled)

    def skewed(expected: Any, found: Any, what: str) -> None:
        found[0][0, 0] += 1e-3
        merging_check(expected, found, what)

    merging_check = merging.check_same
    monkeypatch.setattr("hortus.learning.exports.merging.check_same", skewed)
    with pytest.raises(hortus.HortusError, match="computes something else"):
        model.export(tmp_path / "merged", "merged")
    assert list(tmp_path.iterdir()) == []


def card_of(out: Path) -> tuple[dict[str, Any], str]:
    _, front, body = (out / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(front), body


def test_a_card_says_what_it_cost_and_how_good_it_is(pooled: hortus.Run, tmp_path: Path) -> None:
    model = hortus.load(pooled)
    front, body = card_of(model.export(tmp_path / "adapter"))
    assert front["library_name"] == "peft"
    assert front["pipeline_tag"] == "text-classification"
    assert "differential-privacy" in front["tags"]
    (result,) = front["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == pooled.metrics[0].value
    assert pooled.epsilon is not None
    (bound,) = (line for line in body.splitlines() if "ε ≤" in line)
    shown = float(bound.split("ε ≤ ")[1].split()[0])
    assert pooled.epsilon <= shown < 1.01 * pooled.epsilon  # never rounded down
    assert "δ = 0.001" in bound
    assert "`record`" in bound
    assert model.contract.digest() in body
    assert model.contract.model_digest in body
    assert str(Path(model.contract.model).parent) not in body + str(front)  # nobody's folders


def test_a_card_of_a_model_without_privacy_says_so_first(
    talker: hortus.Run, tmp_path: Path
) -> None:
    front, body = card_of(hortus.load(talker).export(tmp_path / "adapter"))
    assert "differential-privacy" not in front["tags"]
    assert "**None.** This model was trained without noise" in body


@pytest.mark.parametrize("form", ["adapter", "merged"])
def test_the_code_of_a_card_runs_as_it_stands(dora: hortus.Run, tmp_path: Path, form: str) -> None:
    model = hortus.load(dora)
    out = model.export(tmp_path / "exported", form)
    (code,) = (part.split("```")[0] for part in card_of(out)[1].split("```python\n")[1:])
    code = code.replace("BASE_MODEL_FOLDER", model.contract.model)
    environment = os.environ | {"PYTHONPATH": ""}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, env=environment)


def run_cli(*arguments: object) -> Result:
    return CliRunner(env={"COLUMNS": "400", "TERM": "dumb"}).invoke(app, list(map(str, arguments)))


def test_the_command_writes_what_is_asked_for_and_overwrites_nothing(
    pooled: hortus.Run, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    done = run_cli("export", pooled.directory, out, "--which", "best")
    assert done.exit_code == 0, done.output
    assert pooled.best is not None
    assert f"the adapter after round {pooled.best.number}, ε = " in done.output
    again = run_cli("export", pooled.directory, out)
    assert (again.exit_code, "exists already" in again.output) == (2, True)
    assert "--force" in again.output
    assert run_cli("export", pooled.directory, out, "--force").exit_code == 0
    from_adapter = run_cli("export", out, tmp_path / "merged", "--as", "merged")
    assert from_adapter.exit_code == 0, from_adapter.output
    assert (tmp_path / "merged" / "model.safetensors").exists()


def test_a_folder_of_somebody_else_is_not_replaced_even_by_force(
    pooled: hortus.Run, tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "thesis.txt").write_text("mine")
    link = tmp_path / "link"
    link.symlink_to(kept)
    for target in (kept, link, kept / "thesis.txt"):
        done = run_cli("export", pooled.directory, target, "--force")
        assert (done.exit_code, "not replaced" in done.output) == (2, True), done.output
    assert (kept / "thesis.txt").read_text() == "mine"


@pytest.mark.parametrize("which", ["last", "best", "2"])
def test_the_round_that_is_asked_for_is_loaded(pooled: hortus.Run, which: str) -> None:
    model = hortus.load(pooled, which=which)
    about = json.loads((model.folder / "hortus.json").read_text())
    best = pooled.best
    assert best is not None
    assert about["round"] == {"last": 3, "best": best.number, "2": 2}[which]
    assert len(model.predict(TEXTS)) == len(TEXTS)


@pytest.mark.parametrize("which", ["9", "first", "-1"])
def test_a_round_that_is_not_kept_is_refused(pooled: hortus.Run, which: str) -> None:
    with pytest.raises(hortus.HortusError, match="no checkpoint of round"):
        hortus.load(pooled, which=which)
    with pytest.raises(hortus.HortusError, match="one adapter, not a run"):
        hortus.load(pooled.directory / "adapter", which=which)
