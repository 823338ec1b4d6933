"""A trained model in use: base model and adapter, loaded from an adapter's folder, without the run that trained it."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import safetensors
import safetensors.torch
from numpy.typing import NDArray
from peft import set_peft_model_state_dict

from hortus.learning.data.records import Records
from hortus.learning.exports.card import read_about, write_card
from hortus.learning.exports.folder import new_folder
from hortus.learning.exports.form import Form
from hortus.learning.exports.merging import merge
from hortus.learning.exports.onnx_model import write_onnx
from hortus.learning.exports.safetensors_model import write_model
from hortus.learning.methods.adapter_files import TENSORS
from hortus.learning.methods.base import ABOUT
from hortus.learning.models.folder import model_digest, resolve_model
from hortus.learning.models.generation import Writer, Writing
from hortus.learning.warm_model import WarmModel
from hortus.protocol.plan import Contract
from hortus.runtime.errors import HortusError, UsageError

_AT_ONCE = 16  # prompts that are written to in one pass


class Model:
    """A base model with a trained adapter.

    Attributes:
        folder: The adapter's.
        contract: What was trained, as the sites approved it.
    """

    def __init__(self, folder: Path, contract: Contract, base: Path, keeps: object = None) -> None:
        """See `load_model`."""
        self._keeps = keeps
        self.folder = folder
        self.contract = contract
        self._base = base
        self._warm = WarmModel(contract, base)
        self._adapter = _read_adapter(folder, self._warm)
        self._writer = Writer(self._warm.base, self._warm.tokenizer)

    @property
    def task(self) -> str:
        """The kind of its task, such as `text-classification`."""
        return self._warm.task.kind

    @property
    def asked(self) -> tuple[str, ...]:
        """Columns of a row that it answers about; a text alone stands for the first where there is one."""
        return self._warm.task.asked

    @property
    def writes(self) -> bool:
        """Whether it answers by writing a text, so that `generate` works."""
        return self._warm.task.writes

    @property
    def converses(self) -> bool:
        """Whether it answers the messages of a conversation."""
        return self._warm.task.converses

    def check(self, question: str | Mapping[str, Any]) -> None:
        """Checks that a question can be answered.

        Raises:
            UsageError: See `predict`.
        """
        value = self._warm.task.ask(question)
        if self._warm.task.writes:
            self._writer.check(self._prompt(value))

    def predict(
        self, texts: Sequence[str | Mapping[str, Any]], how: Writing | None = None
    ) -> list[Any]:
        """Returns the model's answer to each text: what it is, depends on the task.

        `text-classification` answers with a `Prediction`: a label and its probability; `chat` with what the assistant
        says. An answer does not depend on the other texts, but for rounding in the last bits.

        Args:
            texts: Texts; or rows with the columns that the task asks about (`Task.asked`).
            how: How an answer is written, where the model writes it.

        Raises:
            HortusError: A text is empty, a column is missing, or the task does not answer texts.
        """
        if isinstance(texts, str):
            raise UsageError("one text was given, not a list of texts", remedy="Write [text].")
        if not texts:
            return []
        task = self._warm.task
        values = tuple(task.ask(text) for text in texts)
        if task.writes:
            prompts = [self._prompt(value) for value in values]
            with self._holding():
                return self._in_passes(prompts, how or Writing())
        data = self._warm.loader.encode(Records(values))
        with self._holding() as model:
            return self._warm.loader.answer(model, data)

    @overload
    def generate(
        self,
        prompt: str | Sequence[Mapping[str, str]],
        *,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        seed: int = 0,
        stream: Literal[False] = False,
        adapter: bool = True,
    ) -> str: ...

    @overload
    def generate(
        self,
        prompt: str | Sequence[Mapping[str, str]],
        *,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        seed: int = 0,
        stream: Literal[True],
        adapter: bool = True,
    ) -> Iterator[str]: ...

    def generate(
        self,
        prompt: str | Sequence[Mapping[str, str]],
        *,
        max_new_tokens: int = 256,
        temperature: float = 0.0,
        seed: int = 0,
        stream: bool = False,
        adapter: bool = True,
    ) -> str | Iterator[str]:
        """Returns the text that the model writes after a prompt.

        Args:
            prompt: A text; or, for `chat`, messages such as `{"role": "user", "content": "…"}`.
            max_new_tokens: The text ends after this many tokens, wherever it is.
            temperature: 0 takes the likeliest token each time; above 0 tokens are drawn.
            seed: What is drawn follows from it.
            stream: Return an iterator over pieces of the text, each as soon as it is written, instead of the text.
                Nobody else can use the model until it is exhausted or closed.
            adapter: False: the base model answers, with the adapter switched off.

        Raises:
            HortusError: The task does not write texts, or the prompt is empty or longer than the model reads.
        """
        tokens = self._asked_to_write(prompt)
        how = Writing(max_new_tokens, temperature, seed)
        if stream:
            return self._streamed(tokens, how, adapter=adapter)
        with self._holding(adapter=adapter):
            return self._writer.write([tokens], how)[0]

    def fits(self, prompt: str | Sequence[Mapping[str, str]], max_new_tokens: int) -> bool:
        """Whether the model reads a prompt of `generate` and this many tokens after it."""
        return self._writer.fits(self._asked_to_write(prompt), max_new_tokens)

    def _asked_to_write(self, prompt: str | Sequence[Mapping[str, str]]) -> tuple[int, ...]:
        task = self._warm.task
        if not task.writes:
            raise UsageError(
                f"a model of the task {task.kind!r} writes no text",
                remedy="Use predict, which returns what it answers.",
            )
        asked = prompt if isinstance(prompt, str) else {task.asked[0]: list(prompt)}
        return self._prompt(task.ask(asked))

    def _streamed(self, tokens: tuple[int, ...], how: Writing, *, adapter: bool) -> Iterator[str]:
        with self._holding(adapter=adapter):
            yield from self._writer.stream(tokens, how)

    def _prompt(self, value: Any) -> tuple[int, ...]:  # noqa: ANN401 - the task's own
        return self._warm.task.prompt(self._warm.tokenizer, value)

    def _in_passes(self, prompts: Sequence[tuple[int, ...]], how: Writing) -> list[str]:
        """Writes to some prompts at a time, those of like lengths together."""
        order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
        found: dict[int, str] = {}
        for start in range(0, len(order), _AT_ONCE):
            places = order[start : start + _AT_ONCE]
            texts = self._writer.write([prompts[place] for place in places], how)
            found.update(zip(places, texts, strict=True))
        return [found[place] for place in range(len(prompts))]

    @contextmanager
    def _holding(self, *, adapter: bool = True) -> Iterator[Any]:
        """Lends the trained model; or the base model, which is the same one with its adapter switched off."""
        with self._warm.holding(self._adapter) as model:
            lent: Any = model
            if adapter:
                yield lent
            else:
                with lent.disable_adapter():
                    yield lent

    def export(
        self, out: Path | str, form: Form | str = Form.ADAPTER, *, force: bool = False
    ) -> Path:
        """Writes the model to a new folder, with a model card.

        Args:
            out: The folder.
            form: `adapter`: the adapter in PEFT's format; `merged`: the whole model in safetensors; `onnx`: the graph
                of an encoder.
            force: Replace an earlier export that is there.

        Raises:
            HortusError: The folder exists, or cannot be written; or the model cannot be had in that form, or would
                then compute something else.
        """
        target, form = Path(out), Form(form)
        if form is Form.ADAPTER:
            return export_adapter(self.folder, target, force=force)
        with new_folder(target, force=force) as folder:
            merged = merge(self.contract, self._base, self._adapter)
            labels = tuple(getattr(self._warm.task, "labels", ()))
            if form is Form.MERGED:
                write_model(merged, labels, folder)
            else:
                write_onnx(merged, labels, folder)
            shutil.copyfile(self.folder / ABOUT, folder / ABOUT)
            write_card(folder, read_about(folder), form, self._warm.base.task_type)
        return target


def export_adapter(adapter: Path, target: Path, *, force: bool = False) -> Path:
    """Copies an adapter, in PEFT's format, to a new folder, with a model card; needs no base model.

    Raises:
        UsageError: There is no adapter, or the new folder exists.
        HortusError: The adapter's description is damaged, or the folder cannot be written.
    """
    about = read_about(adapter)
    with new_folder(target, force=force) as folder:
        shutil.copytree(adapter, folder, dirs_exist_ok=True)
        config = json.loads((folder / "adapter_config.json").read_bytes())
        write_card(folder, about, Form.ADAPTER, config.get("task_type"))
    return target


def load_model(
    folder: Path, base: Path | None = None, near: Path | None = None, keeps: object = None
) -> Model:
    """Loads an adapter and its base model.

    Args:
        folder: The adapter's folder, as a run writes it.
        base: The base model's folder; None: where the plan says, seen from the current directory, or from the
            adapter's folder and those above it.
        near: Another folder to look from instead of the adapter's.
        keeps: What the model holds on to, such as a temporary folder that the adapter is in.

    Raises:
        UsageError: There is no adapter of Hortus's in the folder, or its base model is not there or another one.
        HortusError: The adapter is damaged.
    """
    contract = read_about(folder).terms
    found = [base] if base is not None else _candidates(contract.model, near or folder)
    for path in found:
        if model_digest(resolve_model(".", path)) == contract.model_digest:
            return Model(folder, contract, path, keeps)
    raise UsageError(
        "this is not the base model that the adapter was trained on: its files have another hash"
        if found
        else f"the base model {contract.model} is not here",
        where=", ".join(map(str, found)) or str(folder),
        remedy=f"Name a folder of {contract.model} with the hash {contract.model_digest[:16]}…: "
        "--model FOLDER, or load(…, model=FOLDER).",
    )


def _candidates(model: str, folder: Path) -> list[Path]:
    """Returns the folders that a plan may mean by a name."""
    found: dict[Path, None] = {}
    for place in (Path(), *folder.resolve().parents):
        with suppress(UsageError):
            found[resolve_model(model, place).resolve()] = None
    return list(found)


def _read_adapter(folder: Path, warm: WarmModel) -> NDArray[np.float32]:
    """Returns the adapter, float32[d]."""
    path = folder / TENSORS
    damaged = HortusError("the adapter is damaged, or belongs to another model", where=str(path))
    try:
        state = safetensors.torch.load(path.read_bytes())
        with warm.holding(warm.initial_adapter) as model:
            result: Any = set_peft_model_state_dict(model, state)
            strange = result.unexpected_keys
            # Tensors of the frozen base model are missing by design.
            missing = warm.space.shapes.keys() & set(result.missing_keys)
            if strange or missing:
                raise damaged
            return warm.space.read(model)
    except (OSError, RuntimeError, KeyError, safetensors.SafetensorError) as error:
        raise damaged from error
