"""Token classification: a tag for each word, such as the names of diseases and people in a text."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from hortus.learning.data.values import as_index, as_list, as_text, check_words, numbered
from hortus.learning.tasks.base import IGNORED, Example, Note, Task
from hortus.protocol.plan import Precision
from hortus.runtime.errors import UsageError
from hortus.runtime.metric import Better, Breakdown, Metric, Metrics, Part, Unit

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn
    from transformers import PreTrainedTokenizerBase

    from hortus.learning.models.base import Base

_OUTSIDE = "O"
_SHOWN = 6
_WORD = re.compile(r"\w+|[^\w\s]")
Scheme = Literal["IOB1", "IOB2", "IOE1", "IOE2", "IOBES", "BILOU"]
_PARTS: Mapping[str, str] = {
    "IOB1": "BI",
    "IOB2": "BI",
    "IOE1": "IE",
    "IOE2": "IE",
    "IOBES": "BIES",
    "BILOU": "BILU",
}


class TaggedWords(NamedTuple):
    """A record: words, the number of each word's tag, and the text that they are from where it is known."""

    words: tuple[str, ...]
    tags: tuple[int, ...]
    text: str = ""


class Entity(NamedTuple):
    """What a model has found in a text.

    Attributes:
        entity: Its kind, as the plan calls it.
        text: The words.
        start: Position of its first character in the text; of words alone, in the words with blanks between them.
        end: Position after its last character.
    """

    entity: str
    text: str
    start: int
    end: int


class TokenClassification(Task):
    """`token-classification`: a tag for each word; transformers' own head."""

    listed: ClassVar[tuple[str, ...]] = ("entities",)

    kind: Literal["token-classification"] = "token-classification"
    tokens: str = Field("tokens", description="Column that holds a list of words.")
    tags: str = Field("tags", description="Column that holds a list of tags, one for each word.")
    entities: tuple[str, ...] = Field(
        min_length=1,
        description="What is to be found, such as `Disease`: in IOB2, words are tagged `B-Disease` where one begins, "
        "`I-Disease` within it, and `O` elsewhere. A list, or in a plan file the path of a text file with one a line.",
    )
    scheme: Scheme = Field(
        "IOB2", description="How the tags are written, as seqeval calls the schemes."
    )
    max_length: int = Field(128, ge=4, le=4096, description="Tokens a text is cut to.")

    @model_validator(mode="after")
    def _entities_are_distinct_words(self) -> Self:
        check_words(self.entities, "an entity", "entities")
        return self

    @cached_property
    def names(self) -> tuple[str, ...]:
        """All tags: `O`, then each entity's."""
        parts = _PARTS[self.scheme]
        return (_OUTSIDE, *(f"{part}-{entity}" for entity in self.entities for part in parts))

    @cached_property
    def numbers(self) -> Mapping[str, int]:
        """The tags' numbers."""
        return numbered(self.names)

    @cached_property
    def _plain(self) -> tuple[str, ...]:
        """The tags with entities' numbers for their names, which seqeval reads without a doubt."""
        parts = _PARTS[self.scheme]
        return (_OUTSIDE, *(f"{part}-{n}" for n in range(len(self.entities)) for part in parts))

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
        seen = {self.names[number].partition("-")[2] for value in values for number in value.tags}
        unseen = [one for one in self.entities if one not in seen]
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

    @property
    def asked(self) -> tuple[str, ...]:
        """The words."""
        return (self.tokens,)

    def ask(self, question: str | Mapping[str, Any]) -> TaggedWords:
        """Returns a text's words, or the words of a list. See `Task`."""
        asked = self.fields(question)[self.tokens]
        where = "a text to predict"
        given = [as_text(word, where) for word in asked] if isinstance(asked, list) else None
        text = as_text(asked if given is None else " ".join(given), where)
        words = tuple(given or _WORD.findall(text))
        return TaggedWords(words, (0,) * len(words), text)

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
            firsts = {
                owners.index(word): word for word in dict.fromkeys(owners) if word is not None
            }
            target = [IGNORED] * len(ids)
            for token, word in firsts.items():
                target[token] = value.tags[word]
            # (token, word) of each word's first token; the last words may be cut off.
            note = Note(value, tuple(firsts.items()))
            examples.append(Example(tuple(ids), tuple(target), note=note))
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
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        targets: torch.Tensor,  # noqa: ARG002 - the note has them, those cut off too
    ) -> list[list[int]]:
        """The tag predicted of each token. See `Task`."""
        return self.answer(model, inputs)

    def answer(self, model: nn.Module, inputs: Mapping[str, Any]) -> list[list[int]]:
        """The tag predicted of each token. See `Task`."""
        predicted: list[list[int]] = model(**inputs).logits.argmax(2).tolist()
        return predicted

    def replies(
        self, examples: Sequence[Example], answers: Sequence[list[int]]
    ) -> list[tuple[Entity, ...]]:
        """The entities of each text. See `Task`."""
        from seqeval.scheme import Entities

        replies = []
        for example, tags in zip(examples, answers, strict=True):
            value, predicted = example.note.value, _of_words(example.note, tags)
            spans = Entities([[self._plain[tag] for tag in predicted]], self._scheme).entities[0]
            places = _places(value)
            replies.append(
                tuple(
                    Entity(
                        self.entities[int(span.tag)],
                        value.text[places[span.start][0] : places[span.end - 1][1]],
                        places[span.start][0],
                        places[span.end - 1][1],
                    )
                    for span in spans
                )
            )
        return replies

    def judge(self, examples: Sequence[Example], observed: Sequence[list[int]]) -> Metrics:
        """Words that are cut off count as if nothing had been found there. See `Task`."""
        return self.metrics(
            [
                (example.note.value.tags, _of_words(example.note, tags))
                for example, tags in zip(examples, observed, strict=True)
            ]
        )

    @property
    def _scheme(self) -> Any:  # noqa: ANN401 - seqeval has no types
        from seqeval import scheme

        return getattr(scheme, self.scheme)

    def metrics(self, observed: Sequence[tuple[Sequence[int], Sequence[int]]]) -> Metrics:
        """F1 of whole entities by seqeval, which is primary, precision, recall, and accuracy of words.

        Args:
            observed: Of each record its words' tags, and those predicted.
        """
        from seqeval.metrics.v1 import precision_recall_fscore_support as scores_of
        from seqeval.scheme import Entities

        both = [[[self._plain[tag] for tag in one[n]] for one in observed] for n in (0, 1)]
        tags = set[str]().union(*(Entities(one, self._scheme).unique_tags for one in both))
        how = {"scheme": self._scheme, "zero_division": 0}
        precision, recall, f1, _ = scores_of(*both, average="micro", **how)
        of_each = zip(sorted(tags), *scores_of(*both, average=None, **how), strict=True)
        parts = {int(tag): Part(self.entities[int(tag)], n, one) for tag, _, _, one, n in of_each}
        pairs = [pair for tags, predicted in observed for pair in zip(tags, predicted, strict=True)]
        hits = sum(tag == found for tag, found in pairs)
        return (
            Metric(
                "f1",
                float(f1),
                Unit.PERCENT,
                Better.HIGHER,
                primary=True,
                label="F1 of entities",
                meaning="An entity counts as found where its first word, its last word and its kind are right.",
                breakdown=Breakdown(
                    "F1", "entity", "entities", tuple(parts[n] for n in sorted(parts))
                ),
            ),
            Metric("precision", float(precision), Unit.PERCENT, Better.HIGHER),
            Metric("recall", float(recall), Unit.PERCENT, Better.HIGHER),
            Metric(
                "word_accuracy",
                hits / max(1, len(pairs)),
                Unit.PERCENT,
                Better.HIGHER,
                label="accuracy of words",
            ),
        )


def _of_words(note: Note, tags: Sequence[int]) -> list[int]:
    """Returns the tags predicted of all words; O where a word has been cut off, or is no token."""
    found = [0] * len(note.value.words)
    for token, word in note.places:
        found[word] = tags[token]
    return found


def _places(value: TaggedWords) -> list[tuple[int, int]]:
    """Returns where each word is in the text."""
    places, after = [], 0
    for word in value.words:
        start = value.text.index(word, after)
        after = start + len(word)
        places.append((start, after))
    return places
