"""A merged encoder as an ONNX graph, compared with itself in onnxruntime before anybody relies on it."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hortus.learning.exports.merging import Merged, check_same, logits, outputs
from hortus.runtime.errors import HortusError, UsageError, in_one_line

GRAPH = "model.onnx"
_OPSET = 17
_TRIED = (
    ("a",),
    ("a b c", "d"),
    ("one", "two three", "four five six seven eight nine ten eleven twelve thirteen"),
    ("many words " * 40, "few"),
)


def write_onnx(merged: Merged, labels: tuple[str, ...], folder: Path) -> None:
    """Writes an encoder's graph, of batches and texts of any length, with its tokenizer.

    Args:
        merged: The model.
        labels: Names of its outputs; may be empty.
        folder: A new folder.

    Raises:
        UsageError: The model writes texts, or the packages are not installed.
        HortusError: The graph cannot be made, or computes something else than the model.
    """
    if merged.writes:
        raise UsageError(
            "a model that writes texts is not exported as ONNX: its graph would have to keep what it has read",
            where="--as onnx",
            remedy="Use --as merged, which transformers, vLLM, llama.cpp's converter and optimum open.",
        )
    runtime = _runtime()
    graph = folder / GRAPH
    merged.tokenizer.save_pretrained(folder)
    config = getattr(merged.module, "config", None)
    if config is not None:
        if labels:
            config.id2label = dict(enumerate(labels))
            config.label2id = {label: number for number, label in enumerate(labels)}
        config.save_pretrained(folder)
    names = _export(merged, graph)
    session = runtime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    for texts in _TRIED:
        given = {name: value.numpy() for name, value in merged.tried(*texts).items()}
        check_same(logits(merged, *texts), session.run(names, given), "ONNX")


class _Positional(nn.Module):
    """A model with its arguments by position, and its logits as a tuple, as an exporter wants them."""

    def __init__(self, merged: Merged) -> None:
        super().__init__()
        self._merged = merged.module
        self._inputs = merged.inputs

    def forward(self, *given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Returns all logits."""
        return tuple(outputs(self._merged, dict(zip(self._inputs, given, strict=True))).values())


def _export(merged: Merged, graph: Path) -> list[str]:
    """Writes the graph; returns its outputs' names."""
    # Of two texts of unlike lengths, so that no dimension is 1 and the mask is of use.
    given = merged.tried("a few words that are here", "one")
    with torch.no_grad():
        found = outputs(merged.module, given)
    axes = {name: {0: "batch", 1: "length"} for name in merged.inputs}
    axes |= {
        name: {0: "batch", 1: "length"} if _is_of_tokens(value, given) else {0: "batch"}
        for name, value in found.items()
    }
    try:
        with _quiet():
            torch.onnx.export(
                _Positional(merged).eval(),
                tuple(given[name] for name in merged.inputs),
                str(graph),
                input_names=list(merged.inputs),
                output_names=list(found),
                dynamic_axes=axes,
                opset_version=_OPSET,
                dynamo=False,  # traces: seconds instead of minutes, and what it gets wrong is found below
            )
    except Exception as error:  # whatever an exporter says of an architecture
        raise HortusError(
            f"PyTorch cannot export this architecture to ONNX ({type(error).__name__}: "
            f"{in_one_line(str(error), 200)})",
            remedy="Use --as merged, and another tool to convert it.",
        ) from error
    return list(found)


def _is_of_tokens(value: torch.Tensor, given: dict[str, torch.Tensor]) -> bool:
    return value.dim() > 1 and value.shape[:2] == given["input_ids"].shape


def _runtime() -> Any:  # noqa: ANN401 - it has no types
    try:
        import onnx  # noqa: F401, PLC0415 - an extra, which PyTorch needs
        import onnxruntime  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise UsageError(
            f"exporting to ONNX needs the package {error.name}",
            where="--as onnx",
            remedy="pip install 'hortus[onnx]'",
        ) from error
    onnxruntime.set_default_logger_severity(3)
    return onnxruntime


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the exporter's notes about tracing to itself: what they warn of is compared afterwards."""
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger("torch.onnx").setLevel(level)
