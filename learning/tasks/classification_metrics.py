"""How well a model classifies."""

import numpy as np
import torch
from torch import nn

from hortus.learning.passes.workers import side_by_side
from hortus.learning.tasks.classification import Batch, Encoded, TextClassification
from hortus.runtime.metric import Better, Chance, Metric, Metrics, Unit


def evaluate(
    model: nn.Module, task: TextClassification, data: Encoded, micro_batch: int
) -> Metrics:
    """Measures a model on a dataset: accuracy, which is primary, macro F1 and mean cross-entropy."""
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
    return classified(labels, predicted, loss / len(data))


def classified(labels: np.ndarray, predicted: np.ndarray, loss: float) -> Metrics:
    """Returns the metrics of predictions.

    Args:
        labels: int64 (n,), n > 0.
        predicted: int64 (n,).
        loss: Mean cross-entropy in nats.
    """
    commonest = float(np.unique(labels, return_counts=True)[1].max() / len(labels))
    return (
        Metric(
            "accuracy",
            float((predicted == labels).mean()),
            Unit.PERCENT,
            Better.HIGHER,
            primary=True,
            meaning="The share of the records whose label the model names.",
            chance=Chance(commonest, "always naming the most frequent label"),
        ),
        Metric(
            "macro_f1",
            _macro_f1(labels, predicted),
            Unit.PERCENT,
            Better.HIGHER,
            label="macro F1",
            meaning="The mean of the labels' F1 scores: a rare label counts as much as a frequent one.",
        ),
        Metric(
            "loss",
            loss,
            Unit.NATS,
            Better.LOWER,
            meaning="The mean cross-entropy: how little probability the model gives to the right label.",
        ),
    )


def _macro_f1(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Unweighted mean of the labels' F1; labels that are neither present nor predicted are left out."""
    scores = []
    for label in np.union1d(labels, predicted):
        hits = np.sum((labels == label) & (predicted == label))
        scores.append(2 * hits / (np.sum(labels == label) + np.sum(predicted == label)))
    return float(np.mean(scores))
