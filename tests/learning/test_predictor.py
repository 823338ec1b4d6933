"""A trained model answers as the run measured it, wherever its adapter is."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny_models import save_for_task

import hortus
from hortus.learning.models.generation import Writing
from hortus.runtime.metric import values
from tests.conftest import save_tiny_model, write_tiny_plan
from tests.simulation.test_every_task import conversations


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> hortus.Run:
    folder = tmp_path_factory.mktemp("trained")
    return hortus.simulate(hortus.Plan.load(write_tiny_plan(folder, tiny_model)))


@pytest.fixture(scope="module")
def model(run: hortus.Run) -> Any:
    return hortus.load(run)


def public_records(run: hortus.Run) -> list[dict[str, str]]:
    with (run.directory.parent.parent / "test.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_answers_are_as_right_as_the_run_measured(run: hortus.Run, model: Any) -> None:
    rows = public_records(run)
    answers = model.predict([row["text"] for row in rows])
    right = sum(one.label == row["label"] for one, row in zip(answers, rows, strict=True))
    assert right / len(rows) == values(run.metrics)["accuracy"]
    assert all(1 / 3 <= one.probability <= 1 for one in answers)
    assert model.task == "text-classification"


def test_an_answer_does_not_depend_on_its_neighbours(run: hortus.Run, model: Any) -> None:
    texts = [row["text"] for row in public_records(run)[:7]]
    alone = [model.predict([text])[0] for text in texts]
    together = model.predict(texts)
    assert [one.label for one in alone] == [one.label for one in together]
    assert [one.probability for one in alone] == pytest.approx(
        [one.probability for one in together], rel=1e-5
    )


def test_a_model_whose_head_alone_was_trained_answers(tmp_path: Path, tiny_model: Path) -> None:
    path = write_tiny_plan(tmp_path, tiny_model, adapter={"kind": "head"})
    run = hortus.simulate(hortus.Plan.load(path))
    rows = public_records(run)
    answers = hortus.load(run.directory).predict([row["text"] for row in rows])
    right = sum(one.label == row["label"] for one, row in zip(answers, rows, strict=True))
    assert right / len(rows) == values(run.metrics)["accuracy"]


def test_an_exported_adapter_needs_nothing_of_its_run(
    run: hortus.Run, model: Any, tmp_path: Path, tiny_model: Path
) -> None:
    out = model.export(tmp_path / "elsewhere" / "adapter")
    loaded = hortus.load(out, model=shutil.copytree(tiny_model, tmp_path / "copy"))
    texts = [row["text"] for row in public_records(run)]
    assert loaded.predict(texts) == model.predict(texts)
    with pytest.raises(hortus.HortusError, match="exists already"):
        model.export(out)


def test_no_text_has_no_answer(model: Any) -> None:
    assert model.predict([]) == []


@pytest.mark.parametrize(
    ("texts", "expected"),
    [("one text", "one text was given"), (["  "], "empty"), ([7], "text")],
)
def test_what_is_no_text_is_refused(model: Any, texts: Any, expected: str) -> None:
    with pytest.raises(hortus.HortusError, match=expected):
        model.predict(texts)


def test_another_base_model_is_refused(run: hortus.Run, tmp_path: Path) -> None:
    other = save_tiny_model(tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 1e-9}))
    with pytest.raises(hortus.HortusError, match="another hash"):
        hortus.load(run, model=other)


def test_a_folder_without_an_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(hortus.HortusError, match="no run in this folder, and no adapter"):
        hortus.load(tmp_path)


def test_a_base_model_that_is_gone_is_named(run: hortus.Run, tmp_path: Path) -> None:
    adapter = shutil.copytree(run.directory / "adapter", tmp_path / "adapter")
    about = json.loads((adapter / "hortus.json").read_text())
    about["terms"]["model"] = "gone"
    (adapter / "hortus.json").write_text(json.dumps(about))
    with pytest.raises(hortus.HortusError, match=r"the base model gone is not here.*model=FOLDER"):
        hortus.load(adapter)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("hortus.json", b"{}"),
        ("hortus.json", b"["),
        ("adapter_model.safetensors", b"not one"),
        ("adapter_model.safetensors", None),
    ],
)
def test_a_damaged_adapter_is_named(
    run: hortus.Run, tmp_path: Path, file: str, content: bytes | None
) -> None:
    adapter = shutil.copytree(run.directory / "adapter", tmp_path / "adapter")
    if content is None:
        (adapter / file).unlink()
    else:
        (adapter / file).write_bytes(content)
    with pytest.raises(hortus.HortusError, match=f"{file}.*damaged"):
        hortus.load(adapter)


def test_an_adapter_of_another_shape_is_named(run: hortus.Run, tmp_path: Path) -> None:
    adapter = shutil.copytree(run.directory / "adapter", tmp_path / "adapter")
    about = json.loads((adapter / "hortus.json").read_text())
    about["terms"]["adapter"]["rank"] = 4
    (adapter / "hortus.json").write_text(json.dumps(about))
    with pytest.raises(hortus.HortusError, match="belongs to another model"):
        hortus.load(adapter)


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tiny Llama that has learnt to name the colour of a thing."""
    folder = tmp_path_factory.mktemp("talker")
    save_for_task("llama", folder / "model")
    for site in ("ash", "birch", "cedar"):
        (folder / f"{site}.jsonl").write_text("\n".join(map(json.dumps, conversations(24))))
    plan = hortus.Plan(
        name="talker",
        model="model",
        task={"kind": "chat", "max_length": 16},
        adapter={"kind": "lora", "rank": 4, "targets": ["q_proj", "v_proj", "down_proj"]},
        strategy={
            "kind": "fedsgd",
            "server_optimizer": {"kind": "Adam", "learning_rate": 0.1},
        },
        training={"rounds": 1, "steps_per_round": 4, "sampling_rate": 0.5, "nominal_units": 24},
        privacy={"noise": "unsafe_none"},
        simulation={"sites": {site: f"{site}.jsonl" for site in ("ash", "birch", "cedar")}},
        folder=folder,
    )
    return hortus.load(hortus.simulate(plan))


def by_hand(talker: Any, count: int) -> str:
    """The likeliest token after `sky`, again and again, with no cache."""
    warm = talker._warm
    tokens = list(warm.task.prompt(warm.tokenizer, warm.task.ask("sky")))
    asked = len(tokens)
    with warm.holding(talker._adapter) as model, torch.no_grad():
        for _ in range(count):
            tokens.append(int(model(input_ids=torch.tensor([tokens])).logits[0, -1].argmax()))
    return str(warm.tokenizer.decode(tokens[asked:], skip_special_tokens=True))


def test_a_trained_model_writes_and_its_base_model_beside_it(talker: Any) -> None:
    trained = talker.generate("sky", max_new_tokens=3)
    base = talker.generate("sky", max_new_tokens=3, adapter=False)
    assert trained == by_hand(talker, 3) != base
    assert talker.generate("sky", max_new_tokens=3) == trained  # the adapter is on again
    assert "".join(talker.generate("sky", max_new_tokens=3, stream=True)) == trained
    assert "".join(talker.generate("sky", max_new_tokens=3, stream=True, adapter=False)) == base
    messages = [{"role": "user", "content": "sky"}, {"role": "assistant", "content": "a rose"}]
    assert talker.generate(messages, max_new_tokens=3) == trained


def test_a_stream_that_is_left_gives_the_model_back(talker: Any) -> None:
    stream = talker.generate("rose", stream=True, temperature=3.0)
    next(stream)
    stream.close()
    assert talker.predict(["rose"], Writing(2)) == [talker.generate("rose", max_new_tokens=2)]


def test_a_prompt_fits_where_there_is_room_for_the_answer_too(talker: Any) -> None:
    assert talker.fits("sky", 34)
    assert not talker.fits(
        "sky", 35
    )  # the prompt has five tokens more than its word, and the model reads forty


def test_many_prompts_are_answered_in_their_own_order(talker: Any) -> None:
    prompts = ["sky", "the rose is", "ice", "a leaf is a"] * 5
    how = Writing(3, temperature=1.0, seed=1)
    answers = talker.predict(prompts, how)
    assert answers == [
        talker.generate(one, max_new_tokens=3, temperature=1.0, seed=1) for one in prompts
    ]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("  ", "empty"),
        ([], "empty one"),
        ([{"role": "assistant", "content": "sky"}], "nobody but the assistant"),
        ([{"role": "doctor", "content": "sky"}], "role"),
        ([{"content": "sky"}], "no message"),
        ("sky " * 60, "the prompt is 65 tokens long, and the model reads 40"),
    ],
)
def test_a_prompt_that_cannot_be_answered_is_refused(
    talker: Any, prompt: Any, expected: str
) -> None:
    for stream in (False, True):
        with pytest.raises(hortus.HortusError, match=expected):
            list(talker.generate(prompt, stream=stream))


def test_a_model_that_writes_no_text_says_what_it_does(model: Any) -> None:
    with pytest.raises(hortus.HortusError, match="writes no text.*Use predict"):
        model.generate("the sky is")
