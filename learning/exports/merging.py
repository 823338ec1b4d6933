"""A trained model as one: the adapter merged into the weights, exactly, and compared with what it was."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedTokenizerBase

from hortus.learning.models.tokens import filler
from hortus.learning.passes.isolation import join
from hortus.learning.warm_model import WarmModel
from hortus.protocol.plan import Contract
from hortus.runtime.errors import HortusError, UsageError

TOLERANCE = 1e-4  # of the greatest logit, or of 1 where none is as great
_TRIED = ("a", "One is short.", "The other one has a few more words in it, and an end.")


@dataclass(frozen=True, slots=True)
class Merged:
    """A trained model without anything of PEFT's.

    Attributes:
        module: On the processor, in float32.
        tokenizer: The base model's own.
        inputs: Names of its arguments, in order.
        longest: Tokens that it was trained on at most.
        writes: Whether it writes texts.
        has_decoder: Whether it also takes what its decoder has written so far.
    """

    module: Any
    tokenizer: PreTrainedTokenizerBase
    inputs: tuple[str, ...]
    longest: int
    writes: bool
    has_decoder: bool

    def tried(self, *texts: str) -> dict[str, torch.Tensor]:
        """Returns texts as the model takes them, int64 (texts, tokens) each, padded on the right."""
        rows = [
            self.tokenizer(text, truncation=True, max_length=self.longest)["input_ids"]
            or [filler(self.tokenizer)]
            for text in texts
        ]
        width, fill = max(map(len, rows)), filler(self.tokenizer)
        found = {
            "input_ids": torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows]),
            "attention_mask": torch.tensor(
                [[1] * len(row) + [0] * (width - len(row)) for row in rows]
            ),
        }
        if "token_type_ids" in self.inputs:
            numbers = (
                torch.arange(width) % 2
            )  # of whatever text: only that they are read is compared
            found["token_type_ids"] = numbers.expand(len(rows), width).contiguous()
        return found


def merge(contract: Contract, base: Path, adapter: NDArray[np.float32]) -> Merged:
    """Loads a model afresh and merges an adapter, float32[d], into it.

    Raises:
        HortusError: The method's adapter cannot be merged, or the merged model computes something else.
    """
    warm = WarmModel(contract, base)
    task = warm.task
    has_decoder = task.writes and bool(warm.base.config.is_encoder_decoder)
    names = ("input_ids", "attention_mask", *["token_type_ids"] * (warm.base.segments > 1))
    with warm.holding(adapter) as lent:
        model: Any = lent.cpu().float().eval()  # sums of half-precision weights would be rounded
        whole = Merged(model, warm.tokenizer, names, task.max_length, task.writes, has_decoder)
        before = [logits(whole, text) for text in _TRIED]
        try:
            module = model.merge_and_unload()
        except (AttributeError, NotImplementedError, ValueError) as error:
            raise UsageError(
                f"an adapter of the kind {contract.adapter.kind!r} cannot be merged into a model",
                remedy="Export it as an adapter.",
            ) from error
    join(module)
    merged = Merged(module, warm.tokenizer, names, task.max_length, task.writes, has_decoder)
    for text, expected in zip(_TRIED, before, strict=True):
        check_same(expected, logits(merged, text), "merged")
    return merged


def logits(model: Merged, *texts: str) -> list[NDArray[np.float32]]:
    """Returns all logits of some texts, those of padding at 0."""
    inputs = model.tried(*texts)
    if model.has_decoder:
        inputs["decoder_input_ids"] = inputs["input_ids"]
    with torch.no_grad():
        return [one.numpy() for one in outputs(model.module, inputs).values()]


def outputs(module: nn.Module, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Returns what a model computes that its task looks at: its logits, by name."""
    found = module(**inputs)
    return {name: value for name, value in found.items() if name.endswith("logits")}


def check_same(
    expected: list[NDArray[np.float32]], found: list[NDArray[np.float32]], what: str
) -> None:
    """Refuses an export that computes something else than the trained model.

    Raises:
        HortusError: A logit differs by more than `TOLERANCE`.
    """
    for one, other in zip(expected, found, strict=True):
        scale = max(1.0, float(np.abs(one).max()))
        apart = float(np.abs(one - other).max()) if one.shape == other.shape else float("inf")
        if not apart <= TOLERANCE * scale:
            raise HortusError(
                f"the {what} model computes something else than the trained one: a logit differs by {apart:.2g}",
                remedy="Nothing was written. Export the adapter instead (--as adapter).",
            )
