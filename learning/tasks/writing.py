"""What the tasks share whose models write texts: losses of tokens, answers written out, and how good those are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from pydantic import Field

from hortus.learning.tasks.base import IGNORED, Example, Task
from hortus.runtime.errors import UsageError
from hortus.runtime.metric import Better, Metric, Metrics, Unit

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

_AT_ONCE = 8  # answers written side by side
_LARGEST_LOSS = 700.0  # whose exponential is still a float
Observed = tuple[float, int, int]
"""Of a record: the cross-entropy of its tokens, how many they are, and of how many the likeliest is right."""


class Writes(Task):
    """A task whose model answers with a text."""

    @property
    def writes(self) -> bool:
        """It does."""
        return True


class Compared(Writes):
    """One that knows the right answers."""

    compared: int = Field(
        0,
        ge=0,
        le=100_000,
        description="How many public records the model answers each time it is evaluated, the first ones: their "
        "answers are compared with the right ones by ROUGE and BLEU. That takes long, and "
        "`pip install 'hortus[text]'` where the model is evaluated.",
    )
    max_new_tokens: int = Field(
        128, ge=1, le=8192, description="Tokens of such an answer, at most; the likeliest ones."
    )

    def exercise(self, example: Example) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Returns the tokens that a model is given of a record, and those that it should answer with."""
        return first_answer(example)

    def compare(
        self,
        write: Callable[[Sequence[tuple[int, ...]]], Sequence[str]],
        tokenizer: PreTrainedTokenizerBase,
        examples: Iterable[Example],
    ) -> Metrics:
        """Returns how close a model's answers are to the right ones, of the first `compared` records.

        Args:
            write: Returns a model's answers to prompts.
            tokenizer: Its own.
            examples: All records.

        Raises:
            UsageError: A library for it is not installed.
        """
        there = (self.exercise(example) for example in examples if example.has_target)
        pairs = list(islice(there, self.compared))
        wanted = [tokenizer.decode(ids, skip_special_tokens=True) for _, ids in pairs]
        written: list[str] = []
        for start in range(0, len(pairs), _AT_ONCE):
            written += write([asked for asked, _ in pairs[start : start + _AT_ONCE]])
        return similarity(written, wanted)


def first_answer(example: Example) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Returns the tokens before the first that are learnt, and those that are learnt there."""
    assert isinstance(example.target, tuple)  # noqa: S101 - one for each token
    learnt = [one != IGNORED for one in example.target]
    start = learnt.index(True)
    end = learnt.index(False, start) if False in learnt[start:] else len(learnt)
    return example.tokens[:start], example.tokens[start:end]


def cross_entropies(
    logits: torch.Tensor, wanted: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns cross-entropy, float32, and hits, bool, of each token, (records, tokens); 0 where it is IGNORED."""
    from torch.nn.functional import cross_entropy

    logits = logits.float()
    each = cross_entropy(logits.mT, wanted, reduction="none", ignore_index=IGNORED)
    return each, logits.detach().argmax(2) == wanted


def mean_losses(each: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Returns the mean over each record's own tokens, (records,): 0 for one without any."""
    return each.sum(1) / (wanted != IGNORED).sum(1).clamp(min=1)


def observed(each: torch.Tensor, hits: torch.Tensor, wanted: torch.Tensor) -> list[Observed]:
    """Returns what `token_metrics` needs to know of each record."""
    counts = (wanted != IGNORED).sum(1).tolist()
    return list(zip(each.double().sum(1).tolist(), counts, hits.sum(1).tolist(), strict=True))


def token_metrics(observed: Sequence[Observed], of: str) -> Metrics:
    """Returns the mean cross-entropy of all tokens, which is primary, perplexity, and accuracy of tokens.

    Args:
        observed: Of each record.
        of: Whose tokens they are, such as "answers".
    """
    tokens = max(1, sum(count for _, count, _ in observed))
    loss = sum(one for one, _, _ in observed) / tokens
    return (
        Metric(
            "loss",
            loss,
            Unit.NATS,
            Better.LOWER,
            primary=True,
            label=f"loss of {of}",
            meaning=f"The mean cross-entropy of a token of {of}: how little probability it is given.",
        ),
        Metric(
            "perplexity",
            math.exp(min(loss, _LARGEST_LOSS)),
            Unit.NUMBER,
            Better.LOWER,
            meaning="Among as many equally likely tokens the model is in doubt, on average.",
        ),
        Metric(
            "token_accuracy",
            sum(hits for _, _, hits in observed) / tokens,
            Unit.PERCENT,
            Better.HIGHER,
            label="accuracy of tokens",
            meaning=f"The share of the tokens of {of} that the model takes for the likeliest.",
        ),
    )


def similarity(written: Sequence[str], wanted: Sequence[str]) -> Metrics:
    """Returns ROUGE (Lin 2004) as means of F-measures, and BLEU of the whole (Post 2018).

    Args:
        written: The model's answers.
        wanted: The right ones.

    Raises:
        UsageError: A library for it is not installed.
    """
    try:
        import sacrebleu
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise UsageError(
            f"comparing answers needs a library that is not installed ({error.name})",
            where="task.compared",
            remedy="pip install 'hortus[text]'; or write compared: 0.",
        ) from error
    kinds = {"rouge1": "words", "rouge2": "pairs of words", "rougeL": "words in their order"}
    scorer = RougeScorer(list(kinds), use_stemmer=False)
    scores = [scorer.score(right, own) for own, right in zip(written, wanted, strict=True)]
    count = max(1, len(scores))
    rouge = tuple(
        Metric(
            name.lower(),
            sum(score[name].fmeasure for score in scores) / count,
            Unit.PERCENT,
            Better.HIGHER,
            label=f"ROUGE-{name.removeprefix('rouge')}",
            meaning=f"How many {what} the model's answer and the right one share.",
        )
        for name, what in kinds.items()
    )
    bleu = sacrebleu.corpus_bleu(list(written), [list(wanted)]).score if scores else 0.0
    meaning = "How many runs of one to four words the model's answers and the right ones share."
    return (
        *rouge,
        Metric("bleu", bleu, Unit.POINTS, Better.HIGHER, label="BLEU", meaning=meaning),
    )
