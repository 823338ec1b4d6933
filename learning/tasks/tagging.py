"""Token classification: a tag for each word, such as the names of diseases and people in a text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from hortus.learning.data.values import as_index, as_list, as_text, check_words, numbered
from hortus.learning.tasks.base import IGNORED, Example, Task
from hortus.protocol.plan import Precision
from hortus.runtime.errors import UsageError
from hortus.runtime.metric import Better, Metric, Metrics, Unit

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from hortus.learning.models.base import Base

_OUTSIDE = "O"
_SHOWN = 6
Span = tuple[int, int, str]


class TaggedWords(NamedTuple):
    """A record: words, and the number of each word's tag."""

    words: tuple[str, ...]
    tags: tuple[int, ...]


class TokenClassification(Task):
    """`token-classification`: a tag for each word (IOB2); transformers' own head on an encoder."""

    listed: ClassVar[tuple[str, ...]] = ("entities",)

    kind: Literal["token-classification"] = "token-classification"
    tokens: str = Field("tokens", description="Column that holds a list of words.")
    tags: str = Field("tags", description="Column that holds a list of tags, one for each word.")
    entities: tuple[str, ...] = Field(
        min_length=1,
        description="What is to be found, such as `Disease`: words are tagged `B-Disease` where one begins, "
        "`I-Disease` within it, and `O` elsewhere (IOB2). A list, or in a plan file the path of a text file with one "
        "a line.",
    )
    max_length: int = Field(128, ge=4, le=4096, description="Tokens a text is cut to.")

    @model_validator(mode="after")
    def _entities_are_distinct_words(self) -> Self:
        check_words(self.entities, "an entity", "entities")
        return self

    @cached_property
    def names(self) -> tuple[str, ...]:
        """All tags: `O`, then each entity's two."""
        return (_OUTSIDE, *(f"{part}-{entity}" for entity in self.entities for part in "BI"))

    @cached_property
    def numbers(self) -> Mapping[str, int]:
        """The tags' numbers."""
        return numbered(self.names)

    def words(self, code: Callable[[str], str]) -> str:
        """See `Task`."""
        more = f" and {len(self.entities) - _SHOWN} more" if len(self.entities) > _SHOWN else ""
        return f"find, in a text, {', '.join(map(code, self.entities[:_SHOWN]))}{more}"

    @property
    def columns(self) -> tuple[str, ...]:
        """Words and tags."""
        return self.tokens, self.tags

    @property
    def texts(self) -> tuple[str, ...]:
        """The words: a tag is a word of the plan's."""
        return (self.tokens,)

    def read(self, row: Mapping[str, Any], where: str) -> TaggedWords:
        """See `Task`. In CSV, lists are written as JSON."""
        words = as_list(row[self.tokens], f"{where}, column {self.tokens!r}")
        tags = as_list(row[self.tags], f"{where}, column {self.tags!r}")
        if len(words) != len(tags):
            raise UsageError(f"{len(words)} words have {len(tags)} tags", where=where)
        return TaggedWords(
            tuple(as_text(word, f"{where}, column {self.tokens!r}") for word in words),
            tuple(as_index(tag, self.numbers, f"{where}, column {self.tags!r}") for tag in tags),
        )

    def row(self, value: TaggedWords) -> dict[str, Any]:
        """See `Task`."""
        tags = [self.names[number] for number in value.tags]
        return {self.tokens: list(value.words), self.tags: tags}

    def check_values(self, values: Sequence[TaggedWords]) -> None:
        """Refuses entities that no record holds."""
        seen = {number for value in values for number in value.tags}
        unseen = [one for one in self.entities if self.names.index(f"B-{one}") not in seen]
        if unseen:
            raise UsageError(
                f"no site has a record with {', '.join(map(repr, unseen))}",
                where="task.entities",
                remedy="Nobody could learn to find them: remove them from the list, or check the data.",
            )

    def canary(self, value: TaggedWords, generator: np.random.Generator) -> TaggedWords:
        """Other tags, at random."""
        moves = generator.integers(1, len(self.names), len(value.tags))
        wrong = (
            (tag + int(move)) % len(self.names) for tag, move in zip(value.tags, moves, strict=True)
        )
        return value._replace(tags=tuple(wrong))

    def load(self, path: Path, precision: Precision = Precision.FLOAT32) -> Base:
        """See `Task`."""
        from hortus.learning.models.heads import TOKENS, model_with_head

        return model_with_head(path, precision, self.max_length, TOKENS, labels=self.names)

    def check_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Refuses a tokenizer that does not say which word a token is of."""
        problem = None if tokenizer.is_fast else "it is not a fast one"
        try:
            if problem is None:
                self.encode(tokenizer, [TaggedWords(("a", "b"), (0, 0))])
        except Exception as error:  # noqa: BLE001 - whatever a tokenizer says of words
            problem = type(error).__name__
        if problem:
            raise UsageError(
                f"the tokenizer does not say which word a token is of ({problem})",
                where=str(tokenizer.name_or_path),
                remedy="Use a model with a tokenizer.json; for RoBERTa and GPT-2, one saved with "
                "add_prefix_space=True.",
            )

    def encode(
        self, tokenizer: PreTrainedTokenizerBase, values: Sequence[TaggedWords]
    ) -> list[Example]:
        """The first token of a word has its tag, and no other counts. See `Task`."""
        if not values:
            return []
        found = tokenizer(
            [list(value.words) for value in values],
            is_split_into_words=True,
            truncation=True,
            max_length=self.max_length,
        )
        examples = []
        for number, (ids, value) in enumerate(zip(found["input_ids"], values, strict=True)):
            owners = found.word_ids(number)
            before = (None, *owners[:-1])
            firsts = [
                None if one == last else one for one, last in zip(owners, before, strict=True)
            ]
            target = tuple(IGNORED if one is None else value.tags[one] for one in firsts)
            examples.append(Example(tuple(ids), target))
        return examples

    def made_up(self, tokens: tuple[int, ...], generator: np.random.Generator) -> tuple[int, ...]:
        """Random tags."""
        return tuple(generator.integers(0, len(self.names), len(tokens)).tolist())

    def losses(
        self, model: nn.Module, inputs: Mapping[str, Any], targets: torch.Tensor
    ) -> torch.Tensor:
        """Mean cross-entropy of a record's words, in nats. See `Task`."""
        from torch.nn.functional import cross_entropy

        logits = model(**inputs).logits  # (records, tokens, tags)
        each = cross_entropy(logits.mT, targets, reduction="none", ignore_index=IGNORED)
        return each.sum(1) / (targets != IGNORED).sum(1).clamp(min=1)

    def observe(
        self, model: nn.Module, inputs: Mapping[str, Any], targets: torch.Tensor
    ) -> list[tuple[list[int], list[int]]]:
        """The tags of each record's words, and those predicted. See `Task`."""
        predicted = model(**inputs).logits.argmax(2)
        real = targets != IGNORED
        return [
            (tags[mask].tolist(), found[mask].tolist())
            for tags, found, mask in zip(targets, predicted, real, strict=True)
        ]

    def metrics(self, observed: Sequence[tuple[list[int], list[int]]]) -> Metrics:
        """F1 of whole entities, which is primary, precision, recall, and accuracy of words."""
        right = there = claimed = words = hits = 0
        for tags, predicted in observed:
            own, found = set(self._spans(tags)), set(self._spans(predicted))
            right, there, claimed = right + len(own & found), there + len(own), claimed + len(found)
            words += len(tags)
            hits += sum(tag == other for tag, other in zip(tags, predicted, strict=True))
        f1 = 2 * right / (there + claimed) if there + claimed else 0.0
        precision, recall = right / max(1, claimed), right / max(1, there)
        return (
            Metric(
                "f1",
                f1,
                Unit.PERCENT,
                Better.HIGHER,
                primary=True,
                label="F1 of entities",
                meaning="An entity counts as found where its first word, its last word and its kind are right.",
            ),
            Metric("precision", precision, Unit.PERCENT, Better.HIGHER, label="precision"),
            Metric("recall", recall, Unit.PERCENT, Better.HIGHER, label="recall"),
            Metric(
                "word_accuracy",
                hits / max(1, words),
                Unit.PERCENT,
                Better.HIGHER,
                label="accuracy of words",
            ),
        )

    def _spans(self, tags: Sequence[int]) -> Iterator[Span]:
        """Yields entities as (first word, word after the last, kind): strict IOB2, where only `B-` begins one."""
        start, kind = 0, ""
        for place, tag in enumerate([*tags, 0]):
            part, _, entity = self.names[tag].partition("-")
            if kind and (part != "I" or entity != kind):
                yield start, place, kind
                kind = ""
            if part == "B":
                start, kind = place, entity
