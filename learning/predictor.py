"""A trained model in use: base model and adapter, loaded from an adapter's folder, without the run that trained it."""

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
from numpy.typing import NDArray
from peft import set_peft_model_state_dict
from pydantic import ValidationError

from hortus.learning.data.records import Records
from hortus.learning.methods.adapter_files import ABOUT, TENSORS
from hortus.learning.models.folder import model_digest, resolve_model
from hortus.learning.warm_model import WarmModel
from hortus.protocol.plan import Contract
from hortus.runtime.errors import HortusError, UsageError


class Model:
    """A base model with a trained adapter.

    Attributes:
        folder: The adapter's.
        contract: What was trained, as the sites approved it.
    """

    def __init__(self, folder: Path, contract: Contract, base: Path) -> None:
        """See `load_model`."""
        self.folder = folder
        self.contract = contract
        self._warm = WarmModel(contract, base)
        self._adapter = _read_adapter(folder, self._warm)

    @property
    def task(self) -> str:
        """The kind of its task, such as `text-classification`."""
        return self._warm.task.kind

    def predict(self, texts: Sequence[str | Mapping[str, Any]]) -> list[Any]:
        """Returns the model's answer to each text: what it is, depends on the task.

        `text-classification` answers with a `Prediction`: a label and its probability.

        Args:
            texts: Texts; or rows with the columns that the task asks about (`Task.asked`).

        Raises:
            HortusError: A text is empty, a column is missing, or the task does not answer texts.
        """
        if isinstance(texts, str):
            raise UsageError("one text was given, not a list of texts", remedy="Write [text].")
        if not texts:
            return []
        values = tuple(self._warm.task.ask(text) for text in texts)
        data = self._warm.loader.encode(Records(values))
        with self._warm.holding(self._adapter) as model:
            return self._warm.loader.answer(model, data)

    def export(self, out: Path | str) -> Path:
        """Copies the adapter, in PEFT's format, with what was trained, to a new folder.

        Raises:
            HortusError: The folder exists, or cannot be written.
        """
        target = Path(out)
        try:
            shutil.copytree(self.folder, target)
        except FileExistsError as error:
            raise UsageError(
                "this folder exists already", where=str(target), remedy="Choose a new one."
            ) from error
        except (OSError, shutil.Error) as error:
            raise HortusError(f"it cannot be written: {error}", where=str(target)) from error
        return target


def load_model(folder: Path, base: Path | None = None) -> Model:
    """Loads an adapter and its base model.

    Args:
        folder: The adapter's folder, as a run writes it.
        base: The base model's folder; None: where the plan says, seen from the current directory, or from the
            adapter's folder and those above it.

    Raises:
        UsageError: There is no adapter of Hortus's in the folder, or its base model is not there or another one.
        HortusError: The adapter is damaged.
    """
    contract = _read_contract(folder)
    found = [base] if base is not None else _candidates(contract.model, folder)
    for path in found:
        if model_digest(resolve_model(".", path)) == contract.model_digest:
            return Model(folder, contract, path)
    raise UsageError(
        "this is not the base model that the adapter was trained on: its files have another hash"
        if found
        else f"the base model {contract.model} is not here",
        where=", ".join(map(str, found)) or str(folder),
        remedy=f"Name a folder of {contract.model} with the hash {contract.model_digest[:16]}…: "
        "load(…, model=FOLDER).",
    )


def _candidates(model: str, folder: Path) -> list[Path]:
    """Returns the folders that a plan may mean by a name."""
    found: dict[Path, None] = {}
    for place in (Path(), *folder.resolve().parents):
        with suppress(UsageError):
            found[resolve_model(model, place).resolve()] = None
    return list(found)


def _read_contract(folder: Path) -> Contract:
    path = folder / ABOUT
    try:
        about = json.loads(path.read_bytes())
        return Contract.model_validate(about["terms"])
    except FileNotFoundError as error:
        raise UsageError(
            "there is no adapter in this folder",
            where=str(folder),
            remedy="Name the folder of a run, or an adapter's that `hortus export` wrote.",
        ) from error
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        raise HortusError("the adapter's description is damaged", where=str(path)) from error


def _read_adapter(folder: Path, warm: WarmModel) -> NDArray[np.float32]:
    """Returns the adapter, float32[d]."""
    path = folder / TENSORS
    damaged = HortusError("the adapter is damaged, or belongs to another model", where=str(path))
    try:
        state = safetensors.torch.load(path.read_bytes())
        with warm.holding(warm.initial_adapter) as model:
            result: Any = set_peft_model_state_dict(model, state)
            strange, missing = result.unexpected_keys, _trained(result.missing_keys)
            if strange or missing:
                raise damaged
            return warm.space.read(model)
    except (OSError, RuntimeError, KeyError, safetensors.SafetensorError) as error:
        raise damaged from error


def _trained(names: Iterable[str]) -> list[str]:
    """Returns the names of an adapter's tensors; those of the frozen base model are missing by design."""
    return [name for name in names if ".lora_" in name or ".modules_to_save." in name]
