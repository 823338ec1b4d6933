"""Continued pre-training: a model learns the language of documents, by the next token or by masked ones."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from hortus.learning.data.values import as_text
from hortus.learning.tasks.base import IGNORED, Example, Task
from hortus.learning.tasks.writing import (
    Observed,
    Writes,
    cross_entropies,
    mean_losses,
    observed,
    token_metrics,
)
from hortus.protocol.plan import Precision
from hortus.runtime.errors import UsageError
from hortus.runtime.metric import Metrics

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from hortus.learning.models.base import Base

# Devlin et al. 2018, Section 3.1: of the tokens, those predicted; of these, those masked, and those replaced.
_PREDICTED, _MASKED, _REPLACED = 0.15, 0.8, 0.1


class _Documents(Task):
    """A document is one record: it is read in windows, which stay in its unit; nothing is packed beside it."""

    text: str = Field("text", description="Column that holds a document.")
    max_length: int = Field(256, ge=8, le=32768, description="Tokens of a window.")
    windows: int = Field(
        4,
        ge=1,
        le=256,
        description="Windows that a document is read in at most, of equal lengths; it is cut at its end after that.",
    )

    @property
    def most_examples(self) -> int:
        """The windows."""
        return self.windows

    @property
    def columns(self) -> tuple[str, ...]:
        """The document."""
        return (self.text,)

    def read(self, row: Mapping[str, Any], where: str) -> str:
        """See `Task`."""
        return as_text(row[self.text], f"{where}, column {self.text!r}")

    def row(self, value: str) -> dict[str, Any]:
        """See `Task`."""
        return {self.text: value}

    def canary(self, value: str, generator: np.random.Generator) -> str:  # noqa: ARG002 - nothing is kept of it
        """A document of random digits."""
        return " ".join(map(str, generator.integers(0, 10, 8)))

    def encode(self, tokenizer: PreTrainedTokenizerBase, values: Sequence[str]) -> list[Example]:
        """See `Task`."""
        return [
            self.window(tokenizer, part)._replace(continues=number > 0)
            for value in values
            for number, part in enumerate(self._parts(tokenizer, value))
        ]

    def _parts(
        self, tokenizer: PreTrainedTokenizerBase, document: str
    ) -> Iterator[tuple[int, ...]]:
        """Yields a document's tokens in as few parts of nearly one length as fit: so each token weighs the same."""
        from hortus.learning.models.tokens import frame, ids_of

        room = self.max_length - sum(map(len, frame(tokenizer)))
        ids = (ids_of(tokenizer, document) + self.end(tokenizer))[: self.windows * room]
        count = max(1, -(-len(ids) // room))
        bounds = [len(ids) * number // count for number in range(count + 1)]
        for start, end in pairwise(bounds):
            yield ids[start:end]

    def end(self, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:  # noqa: ARG002 - a decoder's
        """Returns the tokens that a document ends with."""
        return ()

    @abstractmethod
    def window(self, tokenizer: PreTrainedTokenizerBase, part: tuple[int, ...]) -> Example:
        """Returns a window of some of a document's tokens."""

    def check_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Refuses one that leaves no room for a document's tokens."""
        from hortus.learning.models.tokens import frame

        if self.max_length <= (own := sum(map(len, frame(tokenizer)))):
            raise UsageError(
                f"the tokenizer puts {own} tokens around each window, which leaves no room for a text",
                where="task.max_length",
                remedy="Raise it.",
            )

    def made_up(
        self,
        tokens: tuple[int, ...],
        generator: np.random.Generator,  # noqa: ARG002 - the tokens are random
    ) -> tuple[int, ...]:
        """The tokens themselves."""
        return tokens


class Pretraining(_Documents, Writes):
    """`pretraining`: a decoder learns the next token of documents."""

    kind: Literal["pretraining"] = "pretraining"

    def words(self, code: Callable[[str], str]) -> str:  # noqa: ARG002 - it names nothing
        """See `Task`."""
        return "continue texts in the language of the documents, and what they say"

    @property
    def asked(self) -> tuple[str, ...]:
        """How a text begins."""
        return self.columns

    def ask(self, question: str | Mapping[str, Any]) -> str:
        """See `Task`."""
        return as_text(self.fields(question)[self.text], "a question")

    def prompt(self, tokenizer: PreTrainedTokenizerBase, value: str) -> tuple[int, ...]:
        """See `Task`."""
        from hortus.learning.models.tokens import frame, ids_of

        return frame(tokenizer)[0] + ids_of(tokenizer, value)

    def load(self, path: Path, precision: Precision = Precision.FLOAT32) -> Base:
        """See `Task`."""
        from hortus.learning.models.heads import CAUSAL, model_with_head

        return model_with_head(path, precision, self.max_length, CAUSAL)

    def end(self, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
        """The end token, where there is one."""
        return () if tokenizer.eos_token_id is None else (int(tokenizer.eos_token_id),)

    def window(self, tokenizer: PreTrainedTokenizerBase, part: tuple[int, ...]) -> Example:
        """See `_Documents`."""
        from hortus.learning.models.tokens import filler, frame

        before = frame(tokenizer)[0]
        ids = before + part
        return Example(ids or (filler(tokenizer),), (IGNORED,) * len(before) + part or (IGNORED,))

    def losses(
        self, model: nn.Module, inputs: Mapping[str, Any], targets: torch.Tensor
    ) -> torch.Tensor:
        """Mean cross-entropy of a window's tokens, in nats. See `Task`."""
        from hortus.learning.models.decoder import token_losses

        return mean_losses(token_losses(model, inputs, targets).losses, targets[:, 1:])

    def observe(
        self, model: nn.Module, inputs: Mapping[str, Any], targets: torch.Tensor
    ) -> list[Observed]:
        """See `Task`."""
        from hortus.learning.models.decoder import token_losses

        return observed(*token_losses(model, inputs, targets), targets[:, 1:])

    def metrics(self, observed: Sequence[Observed]) -> Metrics:
        """See `token_metrics`."""
        return token_metrics(observed, "documents")


class MaskedPretraining(_Documents):
    """`masked-pretraining`: an encoder learns masked tokens of documents.

    Which tokens of a window are masked is drawn from a hash of the window: it depends on no other record, nor on
    where in a file the document is.
    """

    kind: Literal["masked-pretraining"] = "masked-pretraining"

    def words(self, code: Callable[[str], str]) -> str:  # noqa: ARG002 - it names nothing
        """See `Task`."""
        return "fill gaps in texts in the language of the documents"

    def load(self, path: Path, precision: Precision = Precision.FLOAT32) -> Base:
        """See `Task`."""
        from hortus.learning.models.heads import MASKED, model_with_head

        return model_with_head(path, precision, self.max_length, MASKED)

    def check_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Refuses one without a token for what is masked, too."""
        super().check_tokenizer(tokenizer)
        if tokenizer.mask_token_id is None:
            raise UsageError(
                "the tokenizer has no mask_token",
                where=str(tokenizer.name_or_path),
                remedy="Set it in tokenizer_config.json, or use an encoder that was trained with one.",
            )

    def window(self, tokenizer: PreTrainedTokenizerBase, part: tuple[int, ...]) -> Example:
        """See `_Documents`."""
        from hortus.learning.models.tokens import filler, frame

        before, after = frame(tokenizer)
        part = part or (filler(tokenizer),)
        given, wanted = _masked(part, int(tokenizer.mask_token_id), len(tokenizer))
        target = (IGNORED,) * len(before) + wanted + (IGNORED,) * len(after)
        return Example(before + given + after, target)

    def losses(
        self, model: nn.Module, inputs: Mapping[str, Any], targets: torch.Tensor
    ) -> torch.Tensor:
        """Mean cross-entropy of a window's predicted tokens, in nats. See `Task`."""
        each, _ = cross_entropies(model(**inputs).logits, targets)
        return mean_losses(each, targets)

    def observe(
        self, model: nn.Module, inputs: Mapping[str, Any], targets: torch.Tensor
    ) -> list[Observed]:
        """See `Task`."""
        return observed(*cross_entropies(model(**inputs).logits, targets), targets)

    def metrics(self, observed: Sequence[Observed]) -> Metrics:
        """See `token_metrics`."""
        return token_metrics(observed, "masked words")


def _masked(
    part: tuple[int, ...], mask: int, vocabulary: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns tokens with some of them masked or replaced, and those to be predicted, IGNORED elsewhere."""
    import numpy as np

    ids = np.array(part, np.int64)
    seed = hashlib.sha256(b"hortus masked-pretraining" + ids.astype("<i8").tobytes()).digest()
    generator = np.random.default_rng(int.from_bytes(seed))
    places = generator.permutation(len(ids))[: max(1, round(_PREDICTED * len(ids)))]
    wanted = np.full(len(ids), IGNORED)
    wanted[places] = ids[places]
    draws = generator.random(len(places))
    masked, replaced = draws < _MASKED, draws >= 1 - _REPLACED
    ids[places[masked]] = mask
    ids[places[replaced]] = generator.integers(0, vocabulary, int(replaced.sum()))
    return tuple(ids.tolist()), tuple(wanted.tolist())
