"""Tasks: from records to tokens, batches and per-record losses."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from hortus.learning.data.records import Records
from hortus.learning.models import EncoderClassifier, frozen_depth
from hortus.protocol.plan import Adapter, Task

_STATES_BYTES = 2**31  # of frozen layers' output kept in memory; what is beyond is computed anew


@dataclass(frozen=True, slots=True)
class Batch:
    """Some records, ready for the model.

    Attributes:
        inputs: The model's arguments.
        labels: int64 (records,).
        index: int64 (records,), where the records stand in their dataset.
        units: int64 (records,), number of each record's privacy unit within the batch, from 0; a
            unit's records are all in one batch.
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
        micro_batch: Records that go through the frozen layers at once.
    """

    def __init__(
        self,
        task: Task,
        tokenizer: PreTrainedTokenizerBase,
        base: EncoderClassifier,
        adapter: Adapter,
        micro_batch: int,
    ) -> None:
        self._task = task
        self._tokenizer = tokenizer
        self._base = base
        self._micro_batch = micro_batch
        self._head_only = adapter.kind == "head"
        self._depth = 0 if self._head_only else frozen_depth(base, adapter)

    def encode(self, records: Records) -> Encoded:
        """Tokenises records, and runs them through the frozen layers."""
        tokens = self._tokenizer(
            list(records.texts), truncation=True, max_length=self._task.max_length
        )["input_ids"]
        labels = torch.from_numpy(records.labels)
        encoded = Encoded(tuple(map(tuple, tokens)), labels, records.unit_index())
        size = sum(map(len, tokens)) * int(self._base.config.hidden_size)
        if self._head_only:
            return replace(encoded, embeddings=self._embeddings(encoded))
        if self._depth == 0 or size * self._base.encoder.dtype.itemsize > _STATES_BYTES:
            return encoded
        return replace(encoded, states=self._states(encoded))

    def _embeddings(self, encoded: Encoded) -> torch.Tensor:
        embeddings = torch.empty(len(encoded), int(self._base.config.hidden_size))
        with torch.no_grad():
            for batch in self.batches(encoded, np.arange(len(encoded)), self._micro_batch):
                embedded = self._base.embed(**batch.inputs)
                embeddings[torch.from_numpy(batch.index)] = embedded.to(embeddings.device)
        return embeddings

    def _states(self, encoded: Encoded) -> tuple[torch.Tensor, ...]:
        lengths = [len(tokens) for tokens in encoded.tokens]
        width = int(self._base.config.hidden_size)
        kept_states = torch.empty(sum(lengths), width, dtype=self._base.encoder.dtype)
        states: tuple[torch.Tensor, ...] = kept_states.split(lengths)  # type: ignore[no-untyped-call]
        for batch in self.batches(encoded, np.arange(len(encoded)), self._micro_batch):
            real = batch.inputs["attention_mask"].bool()
            for index, row, kept in zip(batch.index, batch.inputs["states"], real, strict=True):
                states[index].copy_(row[kept])
        return states

    def batches(
        self, data: Encoded, indices: NDArray[np.int64], micro_batch: int
    ) -> Iterator[Batch]:
        """Yields the records at `indices`, int64 (m,), shortest first so that little is padded.

        Tensors are where the model is, whatever device that is.
        Units stay whole: a batch has more than `micro_batch` records only where a single unit does.
        """
        lengths = np.array([len(data.tokens[i]) for i in indices], np.int64)
        for members in _whole_units(data.units[indices], lengths, micro_batch):
            index = indices[members]
            units, counts = np.unique(data.units[index], return_inverse=True, return_counts=True)[
                1:
            ]
            device = self._base.encoder.device
            yield Batch(
                self._inputs(data, index),
                data.labels[torch.from_numpy(index)].to(device),
                index,
                torch.from_numpy(units).to(device),
                torch.from_numpy((1 / counts).astype(np.float32)[units]).to(device),
            )

    def _inputs(self, data: Encoded, index: NDArray[np.int64]) -> dict[str, Any]:
        device = self._base.encoder.device
        if data.embeddings is not None:
            return {"embeddings": data.embeddings[torch.from_numpy(index)].to(device)}
        if data.states is not None:
            rows = [data.states[i] for i in index]
            ones = [torch.ones(len(row), dtype=torch.int64) for row in rows]
            states = pad_sequence(rows, batch_first=True).to(device)
            mask = pad_sequence(ones, batch_first=True).to(device)
            return {"states": states, "attention_mask": mask, "depth": self._depth}
        padded = self._tokenizer.pad(
            {"input_ids": [list(data.tokens[i]) for i in index]}, return_tensors="pt"
        )
        tokens, mask = padded["input_ids"].to(device), padded["attention_mask"].to(device)
        if self._depth == 0:
            return {"input_ids": tokens, "attention_mask": mask}
        with torch.no_grad():
            states = self._base.enter(tokens, mask, self._depth)
        return {"states": states, "attention_mask": mask, "depth": self._depth}


def _whole_units(
    units: NDArray[np.int64], lengths: NDArray[np.int64], most: int
) -> Iterator[NDArray[np.int64]]:
    """Yields positions of records, int64 (members,): whole units, shortest first, few at a time.

    Args:
        units: int64 (m,), each record's unit.
        lengths: int64 (m,), its tokens.
        most: Records in a part, if no single unit has more.
    """
    _, first, unit = np.unique(units, return_index=True, return_inverse=True)
    longest = np.zeros(len(first), np.int64)
    np.maximum.at(longest, unit, lengths)
    ordered = np.lexsort((lengths, first[unit], longest[unit]))
    ends = np.flatnonzero(np.diff(unit[ordered], append=-1)) + 1  # of units, in this order
    start = 0
    while start < len(ordered):
        next_unit, last_that_fits = np.searchsorted(ends, [start, start + most], side="right")
        end = int(ends[max(next_unit, last_that_fits - 1)])
        yield ordered[start:end]
        start = end
