"""Text to text: a model learns to turn one text into another, such as a summary or a translation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from hortus.learning.data.values import as_text
from hortus.learning.tasks.base import IGNORED, Example
from hortus.learning.tasks.writing import (
    Compared,
    Observed,
    cross_entropies,
    first_answer,
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

_PLACE = "{source}"


class Pair(NamedTuple):
    """A record: a text, and what it is to be turned into."""

    source: str
    target: str


class TextToText(Compared):
    """`text-to-text`: summaries, translations and the like; the loss is on the target's tokens only."""

    kind: Literal["text-to-text"] = "text-to-text"
    source: str = Field("source", description="Column that holds the text that a model is given.")
    target: str = Field("target", description="Column that holds the text that it should write.")
    architecture: Literal["encoder-decoder", "decoder"] = Field(
        "encoder-decoder",
        description="What the base model is: T5 and BART have both, Llama is a decoder.",
    )
    template: str = Field(
        _PLACE,
        description="What a model is given, with `{source}` in the text's place, such as `summarize: {source}` for "
        "T5. For a decoder, words after it have to say that the other text begins.",
    )
    max_length: int = Field(
        256,
        ge=8,
        le=32768,
        description="Tokens of what a model is given, at most: a longer text is cut at its end. For a decoder, the "
        "target is among them.",
    )
    max_target_length: int = Field(
        64, ge=2, le=8192, description="Tokens that a target is cut to, at its end."
    )

    @model_validator(mode="after")
    def _template_has_a_place(self) -> Self:
        _, place, after = self.template.partition(_PLACE)
        if not place or _PLACE in after:
            raise ValueError("the template has to hold {source} once")
        if self.architecture == "decoder" and not after:
            raise ValueError(r"a decoder needs words after {source}, such as '{source}\nSummary:'")
        return self

    @property
    def _has_encoder(self) -> bool:
        return self.architecture == "encoder-decoder"

    @property
    def further_lengths(self) -> tuple[int, ...]:
        """The target, where it has a decoder of its own."""
        return (self.max_target_length,) if self._has_encoder else ()

    def words(self, code: Callable[[str], str]) -> str:
        """See `Task`."""
        return f"turn one text into another, as {code(self.source)} into {code(self.target)}"

    @property
    def columns(self) -> tuple[str, ...]:
        """Both texts."""
        return self.source, self.target

    def read(self, row: Mapping[str, Any], where: str) -> Pair:
        """See `Task`."""
        return Pair(*(as_text(row[one], f"{where}, column {one!r}") for one in self.columns))

    def row(self, value: Pair) -> dict[str, Any]:
        """See `Task`."""
        return dict(zip(self.columns, value, strict=True))

    def canary(self, value: Pair, generator: np.random.Generator) -> Pair:
        """A target of random digits."""
        return value._replace(target=" ".join(map(str, generator.integers(0, 10, 8))))

    @property
    def asked(self) -> tuple[str, ...]:
        """The text."""
        return (self.source,)

    def ask(self, question: str | Mapping[str, Any]) -> Pair:
        """See `Task`."""
        return Pair(as_text(self.fields(question)[self.source], "a question"), "")

    def load(self, path: Path, precision: Precision = Precision.FLOAT32) -> Base:
        """See `Task`."""
        from hortus.learning.models.heads import CAUSAL, SEQ2SEQ, model_with_head

        longest = max((self.max_length, *self.further_lengths))
        return model_with_head(path, precision, longest, SEQ2SEQ if self._has_encoder else CAUSAL)

    def check_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Refuses one without a token that ends a text, and a prompt that leaves no room for one."""
        if tokenizer.eos_token_id is None:
            raise UsageError(
                "the tokenizer has no eos_token, so that a model would learn never to end",
                where=str(tokenizer.name_or_path),
                remedy="Set it in tokenizer_config.json.",
            )
        words = len(self.prompt(tokenizer, Pair("", "")))
        if words + max(1, self._kept_free) >= self.max_length:
            raise UsageError(
                f"the template takes {words} tokens without a text, which leaves no room for one",
                where="task.max_length",
                remedy="Raise it, or shorten task.template or task.max_target_length.",
            )

    @property
    def _kept_free(self) -> int:
        """Tokens of `max_length` that are the target's, however long that is."""
        return 0 if self._has_encoder else self.max_target_length

    def prompt(self, tokenizer: PreTrainedTokenizerBase, value: Pair) -> tuple[int, ...]:
        """The template, in which the text's end is cut where it is too long. See `Task`."""
        from hortus.learning.models.tokens import frame, ids_of

        before, after = frame(tokenizer)
        first, last = (ids_of(tokenizer, part) for part in self.template.split(_PLACE))
        last += after if self._has_encoder else ()
        room = self.max_length - self._kept_free - len(before + first + last)
        return before + first + ids_of(tokenizer, value.source)[: max(room, 0)] + last

    def encode(self, tokenizer: PreTrainedTokenizerBase, values: Sequence[Pair]) -> list[Example]:
        """See `Task`."""
        from hortus.learning.models.tokens import frame, ids_of

        before, after = frame(tokenizer, of_target=True) if self._has_encoder else ((), ())
        end = after if tokenizer.eos_token_id in after else (tokenizer.eos_token_id,)
        examples = []
        for value in values:
            given = self.prompt(tokenizer, value)
            # Where it is cut no end is put, or models would learn to stop in the middle.
            wanted = (before + ids_of(tokenizer, value.target) + end)[: self.max_target_length]
            if self._has_encoder:
                examples.append(Example(given, 0, further=(wanted,)))
            else:
                examples.append(Example(given + wanted, (IGNORED,) * len(given) + wanted))
        return examples

    def exercise(self, example: Example) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """See `Compared`."""
        if not self._has_encoder:
            return first_answer(example)
        (wanted,) = example.further
        return example.tokens, wanted

    def made_up(
        self,
        tokens: tuple[int, ...],
        generator: np.random.Generator,  # noqa: ARG002 - the tokens are random
    ) -> int | tuple[int, ...]:
        """Of a decoder, the tokens themselves."""
        return 0 if self._has_encoder else tokens

    def _each(
        self, model: nn.Module, inputs: Mapping[str, Any], targets: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns cross-entropy and hits of each token, (records, tokens), and which tokens those are."""
        from hortus.learning.models.decoder import token_losses

        if not self._has_encoder:
            return *token_losses(model, inputs, targets), targets[:, 1:]
        given = {name: value for name, value in inputs.items() if name != "further"}
        (wanted,) = inputs["further"]
        shifted = model.prepare_decoder_input_ids_from_labels(labels=wanted)  # type: ignore[operator]
        logits = model(**given, decoder_input_ids=shifted, use_cache=False).logits
        return *cross_entropies(logits, wanted), wanted

    def losses(
        self, model: nn.Module, inputs: Mapping[str, Any], targets: torch.Tensor
    ) -> torch.Tensor:
        """Mean cross-entropy of a target's tokens, in nats. See `Task`."""
        each, _, wanted = self._each(model, inputs, targets)
        return mean_losses(each, wanted)

    def observe(
        self, model: nn.Module, inputs: Mapping[str, Any], targets: torch.Tensor
    ) -> list[Observed]:
        """See `Task`."""
        return observed(*self._each(model, inputs, targets))

    def metrics(self, observed: Sequence[Observed]) -> Metrics:
        """See `token_metrics`."""
        return token_metrics(observed, "targets")
