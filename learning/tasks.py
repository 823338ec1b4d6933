"""Tasks: from records to tokens, batches and per-record losses."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedTokenizerBase

from hortus.learning.datasets import Records
from hortus.learning.models import EncoderClassifier
from hortus.protocol.plan import Task

_EMBEDDING_BATCH = 128


@dataclass(frozen=True, slots=True)
class Batch:
    """Some records, ready for the model.

    Attributes:
        inputs: The model's arguments.
        labels: int64 (records,).
        index: int64 (records,), where the records stand in their dataset.
    """

    inputs: dict[str, torch.Tensor]
    labels: torch.Tensor
    index: NDArray[np.int64]

    def losses(self, model: nn.Module) -> torch.Tensor:
        """Returns each record's cross-entropy, float32 (records,)."""
        logits = model(**self.inputs)
        return nn.functional.cross_entropy(logits, self.labels, reduction="none")


@dataclass(frozen=True, slots=True)
class Encoded:
    """A dataset as tokens; with `embeddings`, float32 (n, hidden), where the encoder is frozen."""

    tokens: tuple[tuple[int, ...], ...]
    labels: torch.Tensor
    embeddings: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.tokens)


class TextClassification:
    """Single-label classification.

    Args:
        task: Columns, labels, length.
        tokenizer: The base model's own.
        frozen: The model, where its encoder is not trained: embeddings are then made only once.
    """

    def __init__(
        self, task: Task, tokenizer: PreTrainedTokenizerBase, frozen: EncoderClassifier | None
    ) -> None:
        self._task = task
        self._tokenizer = tokenizer
        self._frozen = frozen

    def encode(self, records: Records) -> Encoded:
        """Tokenises records, and embeds them where the encoder is frozen."""
        tokens = self._tokenizer(
            list(records.texts), truncation=True, max_length=self._task.max_length
        )["input_ids"]
        encoded = Encoded(tuple(map(tuple, tokens)), torch.from_numpy(records.labels))
        if self._frozen is None:
            return encoded
        embeddings = torch.empty(len(encoded), self._frozen.width)
        with torch.inference_mode():
            for batch in self.batches(encoded, np.arange(len(encoded)), _EMBEDDING_BATCH):
                embeddings[torch.from_numpy(batch.index)] = self._frozen.embed(**batch.inputs)
        return Encoded(encoded.tokens, encoded.labels, embeddings)

    def batches(
        self, data: Encoded, indices: NDArray[np.int64], micro_batch: int
    ) -> Iterator[Batch]:
        """Yields the records at `indices`, int64 (m,), shortest first so that little is padded."""
        lengths = np.array([len(data.tokens[i]) for i in indices], np.int64)
        ordered = indices[np.argsort(lengths, kind="stable")]
        for start in range(0, len(ordered), micro_batch):
            index = ordered[start : start + micro_batch]
            labels = data.labels[torch.from_numpy(index)]
            yield Batch(self._inputs(data, index), labels, index)

    def _inputs(self, data: Encoded, index: NDArray[np.int64]) -> dict[str, torch.Tensor]:
        if data.embeddings is not None:
            return {"embeddings": data.embeddings[torch.from_numpy(index)]}
        padded = self._tokenizer.pad(
            {"input_ids": [list(data.tokens[i]) for i in index]}, return_tensors="pt"
        )
        return {"input_ids": padded["input_ids"], "attention_mask": padded["attention_mask"]}
