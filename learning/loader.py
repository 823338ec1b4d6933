"""From records to what a model takes: tokens, states of frozen layers, and batches that share a pass."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedTokenizerBase

from hortus.learning.data.kept import keep
from hortus.learning.data.records import Records
from hortus.learning.methods.base import Method
from hortus.learning.models.base import Base, RunsAhead
from hortus.learning.models.generation import Writer, Writing
from hortus.learning.models.storage import room_for
from hortus.learning.models.tokens import check_tokenizer, filler
from hortus.learning.passes.division import Passes
from hortus.learning.passes.workers import passes_at_once, side_by_side
from hortus.learning.tasks.base import IGNORED, Example, Note, Task
from hortus.learning.tasks.writing import Compared
from hortus.runtime.metric import Metrics

_ENCODED_AT_ONCE = 1024  # records; a tokenizer remembers far more of each than its tokens


@dataclass(frozen=True, slots=True)
class Batch:
    """The records of one pass, ready for the model.

    Attributes:
        task: What is learnt.
        inputs: The model's arguments; see `Task.losses`.
        targets: (records,), (records, tokens) with IGNORED where padded, or (records, numbers): see `Task.losses`.
        index: int64 (records,), where the records stand in their dataset.
        units: int64 (records,), number of each record's privacy unit within the batch, from 0: all
            different, or all 0.
        weights: float32 (records,), one over the number of the unit's records.
    """

    task: Task
    inputs: dict[str, Any]
    targets: torch.Tensor
    index: NDArray[np.int64]
    units: torch.Tensor
    weights: torch.Tensor

    def losses(self, model: nn.Module) -> torch.Tensor:
        """Returns each record's share of its unit's mean loss, float32 (records,)."""
        return self.task.losses(model, self.inputs, self.targets) * self.weights


@dataclass(frozen=True, slots=True)
class Encoded:
    """A dataset as tokens, and as what the frozen layers make of them where that is kept.

    Attributes:
        examples: Token ids and target of each record; a long one may have several in a row. Many lie on
            disk: see `keep`.
        units: int64 (n,), number of each example's privacy unit, from 0.
        states: For each example what enters the first trained layer, (tokens, hidden).
        embeddings: What the head is given where nothing else is trained, float32 (n, hidden).
    """

    examples: Sequence[Example]
    units: NDArray[np.int64]
    states: tuple[torch.Tensor, ...] | None = None
    embeddings: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def without_target(self) -> int:
        """How many examples leave nothing to learn, such as conversations cut before their first answer."""
        return sum(not example.has_target for example in self.examples)


class ExampleCodec:
    """Writes an example as JSON: numbers in lists, and the record of its note as a row."""

    def __init__(self, task: Task) -> None:
        self._task = task

    def encode(self, example: Example) -> bytes:
        """See `Codec`."""
        value, places = example.note
        row = None if value is None else self._task.row(value)
        return json.dumps(example._asdict() | {"note": (row, places)}).encode()

    def decode(self, data: bytes) -> Example:
        """See `Codec`."""
        fields = json.loads(data)
        row, places = fields.pop("note")
        value = None if row is None else self._task.read(row, "a record kept on disk")
        note = Note(value, _as_tuples(places))
        return Example(**{name: _as_tuples(one) for name, one in fields.items()}, note=note)


def _as_tuples(value: Any) -> Any:  # noqa: ANN401 - a number, or lists of them
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


class Loader:
    """Makes batches of a task's records for one model.

    Args:
        task: What is learnt.
        tokenizer: The base model's own.
        base: The model, whose first layers the method may leave frozen.
        method: Says which.
        micro_batch: Records that share a pass through the frozen layers at most.
        keeps: Whether what those return is kept: it is worth that where a record is looked at more than once.

    Raises:
        UsageError: The tokenizer does not fit the model, or the task.

    Attributes:
        task: What is learnt.
        workers: Passes at once where nothing is learnt: time and memory only.
        passes: Divides records into passes.
        embeds: Whether what enters the head is kept, since nothing else is trained.
    """

    def __init__(
        self,
        task: Task,
        tokenizer: PreTrainedTokenizerBase,
        base: Base,
        method: Method,
        micro_batch: int,
        *,
        keeps: bool = True,
    ) -> None:
        self.task = task
        self.workers = passes_at_once()
        check_tokenizer(tokenizer, base.vocabulary, task.max_length)
        task.check_tokenizer(tokenizer)
        self._tokenizer = tokenizer
        self._base = base
        self._micro_batch = micro_batch
        self._keeps = keeps
        self._width = int(base.config.hidden_size)
        # What frozen layers make of a record is kept of its first sequence only.
        self._ahead = None if task.further_lengths else base.ahead
        self.embeds = method.trains_heads_alone and self._ahead is not None and self._ahead.pools
        self._depth = 0 if self.embeds else _depth(self._ahead, method)
        self.passes = Passes(task.max_length, self._width, task.further_lengths)

    def encode(self, records: Records) -> Encoded:
        """Tokenises records, and runs them through the frozen layers."""
        values = records.values
        parts = (values[i : i + _ENCODED_AT_ONCE] for i in range(0, len(values), _ENCODED_AT_ONCE))
        begins: list[bool] = []
        examples = keep(
            self._noting(begins, chain.from_iterable(map(self._encode, parts))),
            ExampleCodec(self.task),
        )
        owners = np.cumsum(begins, dtype=np.int64) - 1
        return self.ahead(Encoded(examples, records.unit_index()[owners]))

    def _encode(self, values: Sequence[Any]) -> list[Example]:
        return [self._readable(one) for one in self.task.encode(self._tokenizer, values)]

    def _readable(self, example: Example) -> Example:
        """Returns an example with one token of padding where the tokenizer leaves nothing of a text."""
        if example.tokens:
            return example
        target = (IGNORED,) if example.target == () else example.target
        return example._replace(tokens=(filler(self._tokenizer),), target=target)

    @staticmethod
    def _noting(begins: list[bool], examples: Iterable[Example]) -> Iterator[Example]:
        """Notes of each example whether a record begins with it."""
        for example in examples:
            begins.append(not example.continues)
            yield example

    def made_up(self, lengths: Sequence[tuple[int, ...]], seed: int) -> Encoded:
        """Returns texts of random tokens and targets, a unit each, not run ahead; for checks.

        Args:
            lengths: Tokens of each record's sequences; further ones that are left out are as long as the last, or
                as long as one may be.
            seed: They are drawn from it.
        """
        generator = np.random.default_rng(seed)
        examples = []
        for given in lengths:
            missing = self.passes.further[len(given) - 1 :]
            wanted = (*given, *(min(given[-1], longest) for longest in missing))
            ids, *further = (
                tuple(generator.integers(0, self._base.vocabulary, n).tolist()) for n in wanted
            )
            target = self.task.made_up(ids, generator)
            examples.append(Example(ids, target, further=tuple(further)))
        return Encoded(tuple(examples), np.arange(len(lengths)))

    def largest_unit(self, records: int) -> Encoded:
        """Returns a unit of so many made-up records, each as long as one may be, run ahead."""
        examples = records * self.task.most_examples
        made_up = self.made_up([self.passes.largest] * examples, seed=0)
        return self.ahead(replace(made_up, units=np.zeros(examples, np.int64)))

    def ahead(self, encoded: Encoded) -> Encoded:
        """Runs records through the frozen layers, where what they make of them is kept."""
        if self.embeds:
            return replace(encoded, embeddings=self._embeddings(encoded))
        if self._depth == 0 or not self._keeps:
            return encoded
        tokens = sum(len(example.tokens) for example in encoded.examples)
        room = room_for(tokens, self._width, self._base.backbone.dtype)
        return encoded if room is None else replace(encoded, states=self._states(encoded, room))

    @property
    def kept_bytes(self) -> int:
        """What is kept of a record's states at most, in bytes; 0 where nothing is."""
        size = self.task.max_length * self._width * self._base.backbone.dtype.itemsize
        return size * self.task.most_examples if self._depth and self._keeps else 0

    def _embeddings(self, encoded: Encoded) -> torch.Tensor:
        embeddings = torch.empty(len(encoded), self._width)
        assert self._ahead is not None  # noqa: S101 - else nothing is embedded
        embed_with = self._ahead.embed

        def embed(batch: Batch) -> None:
            with torch.no_grad():
                embedded = embed_with(**batch.inputs)
            embeddings[torch.from_numpy(batch.index)] = embedded.to(embeddings.device)

        side_by_side(self._all(encoded), embed, self.workers)
        return embeddings

    def _states(self, encoded: Encoded, room: torch.Tensor) -> tuple[torch.Tensor, ...]:
        lengths = [len(example.tokens) for example in encoded.examples]
        states: tuple[torch.Tensor, ...] = room.split(lengths)  # type: ignore[no-untyped-call]
        assert self._ahead is not None  # noqa: S101 - else no layer is known to be frozen
        enter_with = self._ahead.enter

        def enter(batch: Batch) -> None:
            with torch.no_grad():
                entered = enter_with(**batch.inputs)
            for index, row in zip(batch.index, entered, strict=True):
                states[index].copy_(row[: lengths[index]])

        side_by_side(self._all(encoded), enter, self.workers)
        return states

    def measure(self, model: nn.Module, data: Encoded) -> Metrics:
        """Returns how good a model is on a dataset."""
        metrics = self.task.judge(data.examples, self.observe(model, data))
        if not isinstance(self.task, Compared) or not self.task.compared:
            return metrics
        writer, how = Writer(self._base, self._tokenizer), Writing(self.task.max_new_tokens)
        write = partial(writer.write, how=how)
        return metrics + self.task.compare(write, self._tokenizer, data.examples)

    def observe(self, model: nn.Module, data: Encoded) -> list[Any]:
        """Returns what the task observes of each example."""
        return self._of_each(
            model, data, lambda batch: self.task.observe(model, batch.inputs, batch.targets)
        )

    def answer(self, model: nn.Module, data: Encoded) -> list[Any]:
        """Returns what a model answers to each record."""
        found = self._of_each(model, data, lambda batch: self.task.answer(model, batch.inputs))
        return list(self.task.replies(data.examples, found))

    def _of_each(
        self, model: nn.Module, data: Encoded, look: Callable[[Batch], Sequence[Any]]
    ) -> list[Any]:
        found: dict[int, Any] = {}
        model.eval()

        def take(batch: Batch) -> None:
            # No inference mode: what a model keeps of a pass may be trained with later.
            with torch.no_grad():
                found.update(zip(batch.index.tolist(), look(batch), strict=True))

        side_by_side(self._all(data), take, self.workers)
        return [found[index] for index in range(len(data))]

    def _all(self, data: Encoded) -> Iterator[Batch]:
        return self.batches(data, np.arange(len(data)), self._micro_batch)

    def batches(
        self, data: Encoded, indices: NDArray[np.int64], micro_batch: int
    ) -> Iterator[Batch]:
        """Yields the records at `indices`, int64 (m,), in passes; units stay whole.

        Tensors are where the model is, whatever device that is.

        Args:
            data: The dataset.
            indices: Which records.
            micro_batch: Records that share a pass at most: memory only.
        """
        of_text = data.embeddings is None
        lengths = [data.examples[i].lengths if of_text else (0,) for i in indices]
        sizes = np.array(lengths, np.int64)
        for members in self.passes.divide(data.units[indices], sizes, micro_batch):
            index = indices[members]
            yield self.batch(data, index, data.units[index])

    def batch(self, data: Encoded, index: NDArray[np.int64], units: NDArray[np.int64]) -> Batch:
        """Returns one pass.

        Args:
            data: The dataset.
            index: Which records, int64 (records,).
            units: int64 (records,), what tells their units apart: all different, or all the same.
        """
        device = self._base.device
        unit, counts = np.unique(units, return_inverse=True, return_counts=True)[1:]
        examples = [data.examples[i] for i in index]
        longest = map(max, zip(*(example.lengths for example in examples), strict=True))
        width, *widths = self.passes.padded_lengths(*longest)
        inputs = self._inputs(data, index, examples, width)
        if widths:
            inputs["further"] = tuple(one.to(device) for one in _further(examples, widths))
        return Batch(
            self.task,
            inputs,
            _targets(examples, width if self.task.aligned else None).to(device),
            index,
            torch.from_numpy(unit).to(device),
            torch.from_numpy((1 / counts).astype(np.float32)[unit]).to(device),
        )

    def _inputs(
        self, data: Encoded, index: NDArray[np.int64], examples: Sequence[Example], width: int
    ) -> dict[str, Any]:
        device = self._base.device
        if data.embeddings is not None:
            return {"embeddings": data.embeddings[torch.from_numpy(index)].to(device)}
        mask = torch.zeros(len(index), width, dtype=torch.int64)
        for row, example in zip(mask, examples, strict=True):
            row[: len(example.tokens)] = 1
        mask = mask.to(device)
        rows = [torch.tensor(example.tokens, dtype=torch.int64) for example in examples]
        tokens = _padded(rows, width, filler(self._tokenizer)).to(device)
        inputs = {"input_ids": tokens, "attention_mask": mask}
        if self._base.segments > 1 and any(any(example.segments) for example in examples):
            numbers = [torch.tensor(one.segments or [0] * len(one.tokens)) for one in examples]
            inputs["token_type_ids"] = _padded(numbers, width, 0).to(device)
        if data.states is not None:
            inputs["states"] = _padded([data.states[i] for i in index], width, 0).to(device)
        return inputs | {"depth": self._depth} if self._depth else inputs


def _depth(ahead: RunsAhead | None, method: Method) -> int:
    """Returns how many of a model's layers are run once for each record."""
    depth = method.frozen_layers(ahead.layers) if ahead and ahead.layers else 0
    return depth if depth and ahead and ahead.reaches(depth) else 0


def _targets(examples: Sequence[Example], width: int | None) -> torch.Tensor:
    """Returns all targets, int64 or float32; those of tokens padded to the width, where there is one."""
    targets = [torch.tensor(example.target) for example in examples]
    if width is None or targets[0].dim() == 0:
        return torch.stack(targets)
    return _padded(targets, width, IGNORED)


def _further(examples: Sequence[Example], widths: Sequence[int]) -> Iterator[torch.Tensor]:
    """Yields each further sequence of the records, int64 (records, width)."""
    columns = zip(*(example.further for example in examples), strict=True)
    for column, width in zip(columns, widths, strict=True):
        yield _padded([torch.tensor(ids) for ids in column], width, IGNORED)


def _padded(rows: list[torch.Tensor], length: int, filler: int) -> torch.Tensor:
    """Returns rows, (tokens, …) each, one below the other, filled on the right, (rows, length, …)."""
    padded = rows[0].new_full((len(rows), length, *rows[0].shape[1:]), filler)
    for target, row in zip(padded, rows, strict=True):
        target[: len(row)] = row
    return padded
