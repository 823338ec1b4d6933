"""What a run has so far can be had as an adapter, whatever the run came to."""

import gc
import json
import shutil
import sqlite3
import tracemalloc
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.made_runs import by_label, classified, generated, make_contract, make_plan, make_round
from safetensors.torch import load_file
from typer.testing import CliRunner

from hortus.cli.main import app
from hortus.learning.methods.adapter_files import save_adapter
from hortus.learning.warm_model import WarmModel
from hortus.protocol.plan import Plan
from hortus.runtime.errors import HortusError, UsageError
from hortus.runtime.metric import Metrics
from hortus.server.evaluation import Evaluator
from hortus.server.run.records import read_contract, read_record
from hortus.server.run.results import export, is_complete, template_path, write_results
from hortus.server.run.store import RunStore

REACHED = (0.2, 0.8, 0.5, 0.8, 0.6, 0.7)


@pytest.fixture(scope="module")
def evaluator(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Evaluator:
    return Evaluator(WarmModel(_plan(tiny_model), tiny_model), None)


def _plan(model: Path, **changes: Any) -> Plan:
    return make_plan(rounds=len(REACHED), model=str(model), **changes)


@pytest.fixture
def store(tmp_path: Path, tiny_model: Path, evaluator: Evaluator) -> RunStore:
    """A run's folder before its first round."""
    store = RunStore(tmp_path / "run", make_contract(_plan(tiny_model)))
    evaluator.write_template(template_path(store.directory))
    return store


def _vector(evaluator: Evaluator, number: int) -> np.ndarray:
    return evaluator.initial_adapter + np.float32(number)


def _finish(
    store: RunStore, evaluator: Evaluator, number: int, metrics: Metrics | None = None
) -> None:
    reached = classified(REACHED[number]) if metrics is None else metrics
    state = {"adapter": torch.from_numpy(_vector(evaluator, number))}
    store.commit(make_round(number, metrics=reached), state)
    write_results(store.directory)


def _values(folder: Path) -> np.ndarray:
    """All numbers of an adapter's folder, sorted: which round it is of can be told from them."""
    tensors = load_file(folder / "adapter_model.safetensors").values()
    return np.sort(np.concatenate([tensor.numpy().ravel() for tensor in tensors]))


def _is_of(folder: Path, evaluator: Evaluator, number: int) -> bool:
    is_said = json.loads((folder / "hortus.json").read_text())["round"] == number + 1
    return is_said and np.array_equal(_values(folder), np.sort(_vector(evaluator, number)))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"adapter": {"kind": "lora", "rank": 2, "layers": [1]}},
        {"adapter": {"kind": "head"}},
        {
            "training": {
                "rounds": 1,
                "sampling_rate": 0.5,
                "nominal_units": 9,
                "precision": "bfloat16",
            }
        },
    ],
    ids=["lora", "one layer", "head", "bfloat16"],
)
def test_an_adapter_from_a_template_is_what_peft_saves(
    tmp_path: Path, tiny_model: Path, changes: dict[str, Any]
) -> None:
    plan = make_plan(**({"model": str(tiny_model)} | changes))
    one, other = Evaluator(WarmModel(plan, tiny_model), None), WarmModel(plan, tiny_model)
    store = RunStore(tmp_path / "run", make_contract(plan))
    one.write_template(template_path(store.directory))
    vector = np.random.default_rng(0).normal(size=len(one.initial_adapter)).astype(np.float32)
    store.commit(make_round(0), {"adapter": torch.from_numpy(vector)})
    write_results(store.directory)
    with other.holding(vector):
        save_adapter(tmp_path / "saved", other.model)
    for saved in (tmp_path / "saved").iterdir():
        assert (tmp_path / "run" / "adapter" / saved.name).read_bytes() == saved.read_bytes()
    assert {path.name for path in (tmp_path / "run" / "adapter").iterdir()} == {
        "hortus.json",
        "tokenizer.json",
        "tokenizer_config.json",
        *(path.name for path in (tmp_path / "saved").iterdir()),
    }


def test_after_each_round_there_are_the_last_and_the_best_adapter(
    store: RunStore, evaluator: Evaluator
) -> None:
    best = (0, 1, 1, 3, 3, 3)
    for number in range(len(REACHED)):
        assert not is_complete(store.directory, len(REACHED))
        _finish(store, evaluator, number)
        assert _is_of(store.directory / "adapter", evaluator, number)
        assert _is_of(store.directory / "adapter-best", evaluator, best[number])
    assert is_complete(store.directory, len(REACHED))
    kept = sorted(path.name for path in (store.directory / "checkpoints").iterdir())
    assert kept == [f"round-{number:05d}.safetensors" for number in (4, 5, 6)]


def test_the_best_round_is_the_one_with_the_lowest_perplexity(
    store: RunStore, evaluator: Evaluator
) -> None:
    reached, best = (30.0, 20.5, None, 20.5, 21.0, 22.0), (0, 1, 1, 3, 3, 3)
    for number, perplexity in enumerate(reached):
        _finish(store, evaluator, number, generated(perplexity))
        assert _is_of(store.directory / "adapter-best", evaluator, best[number])
    about = json.loads((store.directory / "adapter-best" / "hortus.json").read_text())
    assert about["metrics"][1] == {
        "name": "perplexity",
        "value": 20.5,
        "unit": "number",
        "better": "lower",
        "primary": True,
        "label": "perplexity",
        "meaning": "Among how many words the model is as uncertain as if it had to guess.",
        "chance": None,
        "breakdown": None,
    }
    done = CliRunner(env={"COLUMNS": "400"}).invoke(
        app, ["export", str(store.directory), "--which", "best"]
    )
    assert done.output.endswith("the adapter after round 4, ε = 4, perplexity 20.5\n")
    assert (store.directory / "adapter-round-4" / "README.md").exists()


def test_breakdowns_are_kept_for_the_last_two_rounds_and_the_best(
    store: RunStore, evaluator: Evaluator
) -> None:
    for number, reached in enumerate(REACHED):
        _finish(store, evaluator, number, by_label(reached, {"a": reached, "b": 0.1}))
    kept = {record.round for record in store.rounds if record.has_breakdowns}
    assert kept == {3, 4, 5}
    for folder, value in (("adapter", 0.7), ("adapter-best", 0.8)):
        about = json.loads((store.directory / folder / "hortus.json").read_text())
        parts = about["metrics"][1]["breakdown"]["parts"]
        assert parts[0] == {"label": "a", "count": 20, "value": value}
    lines = (store.directory / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == len(REACHED)
    assert all(one["breakdown"] is None for line in lines for one in json.loads(line)["metrics"])


@pytest.mark.parametrize(
    ("which", "number"), [("last", 5), ("best", 3), ("6", 5), ("5", 4), ("4", 3)]
)
def test_a_kept_round_is_exported_without_the_base_model(
    store: RunStore, evaluator: Evaluator, tmp_path: Path, which: str, number: int
) -> None:
    for each in range(len(REACHED)):
        _finish(store, evaluator, each)
    shutil.move(store.directory, tmp_path / "moved")
    shutil.rmtree(tmp_path / "moved" / "adapter")
    out = tmp_path / "new" / "here"
    done = CliRunner().invoke(app, ["export", str(tmp_path / "moved"), str(out), "--which", which])
    assert done.exit_code == 0, done.output
    assert f"round {number + 1}" in done.output
    assert _is_of(out, evaluator, number)


@pytest.mark.parametrize(
    ("which", "said"),
    [
        ("1", "rounds 4, 5, 6 are kept: the last two and the best"),
        ("7", "no checkpoint of round"),
        ("0", "no checkpoint of round"),
        ("first", "no checkpoint of round 'first' is kept"),
    ],
)
def test_a_round_that_is_not_kept_is_refused_with_those_that_are(
    store: RunStore, evaluator: Evaluator, which: str, said: str
) -> None:
    for each in range(len(REACHED)):
        _finish(store, evaluator, each)
    with pytest.raises(UsageError, match=said):
        export(store.directory, which, None)


def test_what_cannot_be_exported_is_explained(
    store: RunStore, evaluator: Evaluator, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="no round of this run has finished yet"):
        export(store.directory, "last", None)
    with pytest.raises(UsageError, match="this folder has no run"):
        export(tmp_path, "last", None)
    _finish(store, evaluator, 0, metrics=())
    assert not (store.directory / "adapter-best").exists()
    with pytest.raises(UsageError, match="the plan names no evaluation records"):
        export(store.directory, "best", None)
    _finish(store, evaluator, 1, metrics=generated(float("inf")))
    assert not (store.directory / "adapter-best").exists()
    with pytest.raises(UsageError, match="perplexity was not finite after any of them"):
        export(store.directory, "best", None)
    with pytest.raises(UsageError, match="this exists already"):
        export(store.directory, "last", tmp_path)
    assert export(store.directory, "last", None)[1] == store.directory / "adapter-round-2"
    (store.directory / "checkpoints" / "round-00002.safetensors").write_bytes(b"another")
    with pytest.raises(HortusError, match="the checkpoint is damaged"):
        export(store.directory, "last", None)
    shutil.rmtree(template_path(store.directory))
    with pytest.raises(HortusError, match=r"damaged"):
        export(store.directory, "last", None)


def test_a_crash_between_a_round_and_its_adapter_leaves_nothing_stale(
    store: RunStore, evaluator: Evaluator
) -> None:
    _finish(store, evaluator, 0)
    for number in range(1, len(REACHED)):
        state = {"adapter": torch.from_numpy(_vector(evaluator, number))}
        store.commit(make_round(number, metrics=classified(REACHED[number])), state)
    assert not is_complete(store.directory, len(REACHED)), "the adapter is the first round's"
    write_results(store.directory)
    assert _is_of(store.directory / "adapter", evaluator, 5)
    assert _is_of(store.directory / "adapter-best", evaluator, 3)


def test_a_resumed_run_begins_after_the_last_sum(store: RunStore, evaluator: Evaluator) -> None:
    def state(number: float) -> dict[str, torch.Tensor]:
        return {"adapter": torch.full((3,), number)}

    for number in range(2):
        for sums in range(1, 3):
            store.commit_sums(number, sums, state(number + sums / 10))
            again = RunStore(store.directory, read_contract(store.directory))
            assert (again.next_round, again.next_sum) == (number, sums)
            assert torch.equal(
                again.latest_state()["adapter"], state(number + sums / 10)["adapter"]
            )
        store.commit(make_round(number), state(number + 1))
        again = RunStore(store.directory, read_contract(store.directory))
        assert (again.next_round, again.next_sum) == (number + 1, 0)
        assert torch.equal(again.latest_state()["adapter"], state(number + 1)["adapter"])
    names = {path.name for path in (store.directory / "checkpoints").iterdir()}
    assert names == {"round-00001.safetensors", "round-00002.safetensors"}


def test_what_a_round_writes_takes_no_more_memory_after_thousands_of_sums(
    store: RunStore, evaluator: Evaluator
) -> None:
    def peak() -> int:
        gc.collect()
        tracemalloc.start()
        try:
            write_results(store.directory)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    _finish(store, evaluator, 0)
    before = peak()
    sites = json.dumps([f"site-{number}" for number in range(20)])
    rows = [(f"{step:032x}", step, 0, sites, sites, 1) for step in range(2000)]
    with closing(sqlite3.connect(store.directory / "run.sqlite")) as database, database:
        database.executemany("INSERT INTO attempts VALUES (?, ?, ?, ?, ?, ?)", rows)
    assert len(read_record(store.directory).attempts) == len(rows)
    assert peak() < before + 2**17
