"""Pickled weights become safetensors; what else a pickle holds is not run."""

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny_models import ARCHITECTURES
from safetensors.torch import load_file
from typer.testing import CliRunner, Result

from hortus.cli.main import app
from hortus.learning.models.folder import resolve_model
from hortus.learning.tasks.classification import TextClassification
from hortus.runtime.errors import UsageError

TASK = TextClassification(labels=("warm", "cool"), max_length=16)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ARCHITECTURES["bert"].save(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def pickled(whole: Path, tmp_path: Path) -> Path:
    """The same model, with its weights in pytorch_model.bin, two of them one tensor."""
    path = Path(shutil.copytree(whole, tmp_path / "pickled"))
    weights: dict[str, Any] = load_file(path / "model.safetensors")
    weights["tied"] = weights["embeddings.word_embeddings.weight"]
    weights["turned"] = weights["encoder.layer.0.output.dense.weight"].T
    torch.save(weights, path / "pytorch_model.bin")
    (path / "model.safetensors").unlink()
    return path


def hortus(*arguments: str) -> Result:
    return CliRunner(env={"COLUMNS": "400", "TERM": "dumb"}).invoke(app, list(arguments))


def test_the_command_that_a_refusal_names_converts(pickled: Path, whole: Path) -> None:
    with pytest.raises(UsageError, match="pickled") as caught:
        resolve_model(str(pickled), Path())
    command = str(caught.value.remedy).partition("hortus ")[2].split()
    result = hortus(*command)
    assert result.exit_code == 0, result.output
    made, before = (
        TASK.load(resolve_model(str(path), Path())).module.state_dict() for path in (pickled, whole)
    )
    assert all(map(torch.equal, made.values(), before.values()))
    again = hortus(*command)
    assert again.exit_code == 2
    assert "there already" in again.output


def test_parts_become_one_file(pickled: Path) -> None:
    weights = torch.load(pickled / "pytorch_model.bin", weights_only=True)
    (pickled / "pytorch_model.bin").unlink()
    names, placed = list(weights), {}
    for number, part in enumerate((names[:9], names[9:]), start=1):
        file = f"pytorch_model-{number:05}-of-00002.bin"
        torch.save({name: weights[name] for name in part}, pickled / file)
        placed |= dict.fromkeys(part, file)
    index = pickled / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": placed}))
    with pytest.raises(UsageError, match="pickled"):
        resolve_model(str(pickled), Path())
    assert hortus("model", "convert", str(pickled)).exit_code == 0
    made = load_file(pickled / "model.safetensors")
    assert made.keys() == weights.keys()
    assert all(torch.equal(made[name], weights[name]) for name in made)


class Evil:
    def __init__(self, ran: Path) -> None:
        self._ran = ran

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self._ran,))


def test_a_pickle_that_runs_something_is_refused_and_runs_nothing(pickled: Path) -> None:
    ran = pickled / "ran"
    torch.save({"a": torch.zeros(1), "b": Evil(ran)}, pickled / "pytorch_model.bin")
    result = hortus("model", "convert", str(pickled))
    assert (result.exit_code, ran.exists()) == (2, False)
    assert "more than weights" in result.output
    assert not list(pickled.glob("*.safetensors*"))


@pytest.mark.parametrize(
    "content",
    [b"", b"PK\x03\x04", pickle.dumps({"a": 1}), pickle.dumps([1, 2])],
    ids=["empty", "cut", "numbers", "list"],
)
def test_what_is_no_mapping_to_weights_is_refused(pickled: Path, content: bytes) -> None:
    (pickled / "pytorch_model.bin").write_bytes(content)
    result = hortus("model", "convert", str(pickled))
    assert result.exit_code == 2
    assert "a defect" not in result.output


def test_a_folder_with_nothing_to_convert_is_told(tmp_path: Path) -> None:
    result = hortus("model", "convert", str(tmp_path))
    assert result.exit_code == 2
    assert "no such file" in result.output
