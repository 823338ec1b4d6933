"""How well a model classifies."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from hortus.learning.passes.workers import side_by_side
from hortus.learning.tasks.classification import Batch, Encoded, TextClassification


@dataclass(frozen=True, slots=True)
class Metrics:
    """Accuracy and macro F1 in [0, 1], and mean cross-entropy in nats."""

    accuracy: float
    macro_f1: float
    loss: float


def evaluate(
    model: nn.Module, task: TextClassification, data: Encoded, micro_batch: int
) -> Metrics:
    """Measures a model on a dataset."""
    labels = data.labels.numpy()
    predicted = np.empty(len(data), np.int64)
    model.eval()

    def look(batch: Batch) -> float:
        with (
            torch.no_grad()
        ):  # no inference mode: what a model keeps of a pass may be trained with later
            logits = model(**batch.inputs)
            predicted[batch.index] = logits.argmax(1).cpu().numpy()
            return float(nn.functional.cross_entropy(logits, batch.labels, reduction="sum"))

    batches = task.batches(data, np.arange(len(data)), micro_batch)
    loss = sum(side_by_side(batches, look, task.workers))
    return Metrics(
        accuracy=float((predicted == labels).mean()),
        macro_f1=_macro_f1(labels, predicted),
        loss=loss / len(data),
    )


def _macro_f1(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Unweighted mean of the labels' F1; labels that are neither present nor predicted are left out."""
    scores = []
    for label in np.union1d(labels, predicted):
        hits = np.sum((labels == label) & (predicted == label))
        scores.append(2 * hits / (np.sum(labels == label) + np.sum(predicted == label)))
    return float(np.mean(scores))
