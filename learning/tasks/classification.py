"""Tasks: from records to tokens, batches and per-record losses."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedTokenizerBase

from hortus.learning.data.records import Records
from hortus.learning.models.encoder import EncoderClassifier, frozen_depth
from hortus.learning.models.memory import available
from hortus.learning.models.tokens import check_tokenizer, filler, token_ids
from hortus.learning.passes.division import Passes
from hortus.learning.passes.workers import passes_at_once, side_by_side
from hortus.protocol.plan import Adapter, Task

_STATES_BYTES = 2**31  # of frozen layers' output kept in memory; what is beyond is computed anew


@dataclass(frozen=True, slots=True)
class Batch:
    """The records of one pass, ready for the model.

    Attributes:
        inputs: The model's arguments.
        labels: int64 (records,).
        index: int64 (records,), where the records stand in their dataset.
        units: int64 (records,), number of each record's privacy unit within the batch, from 0: all
            different, or all 0.
        weights: float32 (records,), one over the number of the unit's records.
    """

    inputs: dict[str, Any]
    labels: torch.Tensor
    index: NDArray[np.int64]
    units: torch.Tensor
    weights: torch.Tensor

    def losses(self, model: nn.Module) -> torch.Tensor:
        """Returns each record's share of its unit's mean cross-entropy, float32 (records,)."""
        logits = model(**self.inputs)
        losses = nn.functional.cross_entropy(logits, self.labels, reduction="none")
        return losses * self.weights


@dataclass(frozen=True, slots=True)
class Encoded:
    """A dataset as tokens, and as what the frozen layers make of them where that is kept.

    Attributes:
        tokens: Token ids of each record.
        labels: int64 (n,).
        units: int64 (n,), number of each record's privacy unit, from 0.
        states: For each record what enters the first trained layer, (tokens, hidden).
        embeddings: What the head is given where nothing else is trained, float32 (n, hidden).
    """

    tokens: tuple[tuple[int, ...], ...]
    labels: torch.Tensor
    units: NDArray[np.int64]
    states: tuple[torch.Tensor, ...] | None = None
    embeddings: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.tokens)


class TextClassification:
    """Single-label classification.

    Args:
        task: Columns, labels, length.
        tokenizer: The base model's own.
        base: The model, whose first layers the adapter may leave frozen.
        adapter: Says which.
        micro_batch: Records that share a pass through the frozen layers at most.

    Raises:
        UsageError: The tokenizer does not fit the model.

    Attributes:
        workers: Passes at once where nothing is learnt: time and memory only.
        passes: Divides records into passes.
        head_only: Whether only the head is trained.
    """

    def __init__(
        self,
        task: Task,
        tokenizer: PreTrainedTokenizerBase,
        base: EncoderClassifier,
        adapter: Adapter,
        micro_batch: int,
    ) -> None:
        self.workers = passes_at_once()
        self._vocabulary = int(base.encoder.get_input_embeddings().weight.shape[0])
        check_tokenizer(tokenizer, self._vocabulary, task.max_length)
        self._task = task
        self._tokenizer = tokenizer
        self._base = base
        self._micro_batch = micro_batch
        self.head_only = adapter.kind == "head"
        self._depth = 0 if self.head_only else frozen_depth(base, adapter)
        self.passes = Passes(task.max_length)

    def encode(self, records: Records) -> Encoded:
        """Tokenises records, and runs them through the frozen layers."""
        tokens = token_ids(self._tokenizer, list(records.texts), self._task.max_length)
        labels = torch.from_numpy(records.labels)
        return self.ahead(Encoded(tuple(tokens), labels, records.unit_index()))

    def made_up(self, lengths: list[int], seed: int) -> Encoded:
        """Returns texts of random tokens and labels, a unit each, not run ahead; for checks.

        Args:
            lengths: Tokens of each record.
            seed: They are drawn from it.
        """
        generator = np.random.default_rng(seed)
        labels = generator.integers(0, len(self._task.labels), len(lengths))
        tokens = tuple(tuple(generator.integers(0, self._vocabulary, n).tolist()) for n in lengths)
        return Encoded(tokens, torch.from_numpy(labels), np.arange(len(lengths)))

    def ahead(self, encoded: Encoded) -> Encoded:
        """Runs records through the frozen layers, where what they make of them is kept."""
        size = sum(map(len, encoded.tokens)) * int(self._base.config.hidden_size)
        if self.head_only:
            return replace(encoded, embeddings=self._embeddings(encoded))
        room = min(_STATES_BYTES, available(torch.device("cpu")) // 4)
        if self._depth == 0 or size * self._base.encoder.dtype.itemsize > room:
            return encoded
        return replace(encoded, states=self._states(encoded))

    def _embeddings(self, encoded: Encoded) -> torch.Tensor:
        embeddings = torch.empty(len(encoded), int(self._base.config.hidden_size))

        def embed(batch: Batch) -> None:
            with torch.no_grad():
                embedded = self._base.embed(**batch.inputs)
            embeddings[torch.from_numpy(batch.index)] = embedded.to(embeddings.device)

        batches = self.batches(encoded, np.arange(len(encoded)), self._micro_batch)
        side_by_side(batches, embed, self.workers)
        return embeddings

    def _states(self, encoded: Encoded) -> tuple[torch.Tensor, ...]:
        lengths = [len(tokens) for tokens in encoded.tokens]
        width = int(self._base.config.hidden_size)
        kept_states = torch.empty(sum(lengths), width, dtype=self._base.encoder.dtype)
        states: tuple[torch.Tensor, ...] = kept_states.split(lengths)  # type: ignore[no-untyped-call]

        def enter(batch: Batch) -> None:
            with torch.no_grad():
                entered = self._base.enter(**batch.inputs)
            for index, row in zip(batch.index, entered, strict=True):
                states[index].copy_(row[: lengths[index]])

        batches = self.batches(encoded, np.arange(len(encoded)), self._micro_batch)
        side_by_side(batches, enter, self.workers)
        return states

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
        lengths = np.array([len(data.tokens[i]) if of_text else 0 for i in indices], np.int64)
        for members in self.passes.divide(data.units[indices], lengths, micro_batch):
            index = indices[members]
            yield self.batch(data, index, data.units[index])

    def batch(self, data: Encoded, index: NDArray[np.int64], units: NDArray[np.int64]) -> Batch:
        """Returns one pass.

        Args:
            data: The dataset.
            index: Which records, int64 (records,).
            units: int64 (records,), what tells their units apart: all different, or all the same.
        """
        device = self._base.encoder.device
        unit, counts = np.unique(units, return_inverse=True, return_counts=True)[1:]
        return Batch(
            self._inputs(data, index),
            data.labels[torch.from_numpy(index)].to(device),
            index,
            torch.from_numpy(unit).to(device),
            torch.from_numpy((1 / counts).astype(np.float32)[unit]).to(device),
        )

    def _inputs(self, data: Encoded, index: NDArray[np.int64]) -> dict[str, Any]:
        device = self._base.encoder.device
        if data.embeddings is not None:
            return {"embeddings": data.embeddings[torch.from_numpy(index)].to(device)}
        lengths = [len(data.tokens[i]) for i in index]
        width = self.passes.padded_length(max(lengths))
        mask = torch.zeros(len(index), width, dtype=torch.int64)
        for row, length in zip(mask, lengths, strict=True):
            row[:length] = 1
        mask = mask.to(device)
        if data.states is not None:
            states = _padded([data.states[i] for i in index], width, 0).to(device)
            return {"states": states, "attention_mask": mask, "depth": self._depth}
        rows = [torch.tensor(data.tokens[i], dtype=torch.int64) for i in index]
        tokens = _padded(rows, width, filler(self._tokenizer)).to(device)
        if self._depth == 0:
            return {"input_ids": tokens, "attention_mask": mask}
        return {"input_ids": tokens, "attention_mask": mask, "depth": self._depth}


def _padded(rows: list[torch.Tensor], length: int, filler: int) -> torch.Tensor:
    """Returns rows, (tokens, …) each, one below the other, filled on the right, (rows, length, …)."""
    padded = rows[0].new_full((len(rows), length, *rows[0].shape[1:]), filler)
    for target, row in zip(padded, rows, strict=True):
        target[: len(row)] = row
    return padded
