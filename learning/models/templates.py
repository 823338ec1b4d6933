"""Chat templates: a conversation as tokens, and which of them the assistant says."""

from collections.abc import Sequence
from functools import partial
from itertools import takewhile
from typing import Any

from transformers import PreTrainedTokenizerBase

from hortus.runtime.errors import UsageError, in_one_line

_Messages = Sequence[dict[str, str]]
_ASSISTANT = "assistant"
_TRIED = (
    {"role": "user", "content": "How are you?"},
    {"role": _ASSISTANT, "content": "Well, thank you."},
    {"role": "user", "content": "And now?"},
    {"role": _ASSISTANT, "content": "Still well"},
)


def check_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Tries a tokenizer's chat template on a made-up conversation, before a budget is spent.

    Raises:
        UsageError: There is none, or it fails; of what it renders everything would be learnt, or answers without the
            token that ends them; or it renders a turn otherwise once the next one is there.
    """
    where = str(tokenizer.name_or_path)
    if not tokenizer.chat_template:
        raise UsageError(
            "the tokenizer has no chat template",
            where=where,
            remedy="Use an instruction-tuned model, or save its tokenizer with a chat_template.",
        )
    _, learnt = rendered(tokenizer, _TRIED, end_of_answer(tokenizer))
    # Every run of learnt tokens is an answer, and something comes before it.
    before = zip([True, *learnt], learnt, strict=False)
    if sum(mask and not last for last, mask in before) != len(_TRIED) // 2:
        raise UsageError(
            "of its chat template, everything would be learnt, the questions too",
            where=where,
            remedy="Its template must write who speaks before what is said, such as ChatML does.",
        )


def end_of_answer(tokenizer: PreTrainedTokenizerBase) -> int:
    """Returns the special token that a template puts after an answer: its end token, or one of the template's own.

    Raises:
        UsageError: There is none, so that a model would learn never to end; or the template fails.
    """
    one, other = (_tokens(tokenizer, [_TRIED[0], answer], asks=False) for answer in _TRIED[1::2])
    same = takewhile(lambda pair: pair[0] == pair[1], zip(one[::-1], other[::-1], strict=False))
    added = getattr(tokenizer, "added_tokens_decoder", {})
    special = {*tokenizer.all_special_ids, *(n for n, token in added.items() if token.special)}
    special.discard(tokenizer.unk_token_id)
    after = [token for token, _ in same][::-1]
    found = next((token for token in after if token in special), None)
    if found is None:
        raise _endless(tokenizer)
    return found


def rendered(
    tokenizer: PreTrainedTokenizerBase, messages: _Messages, end: int
) -> tuple[tuple[int, ...], list[bool]]:
    """Returns a conversation's tokens up to the end of its last answer, and which the assistant says, ends included.

    Args:
        tokenizer: It has a chat template.
        messages: Of a role and a content each; at least one is the assistant's.
        end: What ends an answer; an answer that holds it is learnt as far as there.

    Raises:
        UsageError: The template fails on it; or it renders a turn otherwise once the next one is there, so that
            nobody can say which tokens are whose.
    """
    whole = _tokens(tokenizer, messages, asks=False)
    learnt: list[bool] = []
    for number, message in enumerate(messages):
        if message["role"] != _ASSISTANT:
            continue
        asked = asking(tokenizer, messages[:number])
        said = _tokens(tokenizer, messages[: number + 1], asks=False)
        # What a template puts at the end of all, such as an end token, is not there once there is more.
        same = next((n for n, (a, b) in enumerate(zip(said, whole, strict=False)) if a != b), None)
        shared = min(len(said), len(whole)) if same is None else same
        ends = (n + 1 for n in range(len(asked), shared) if whole[n] == end)
        last = next(ends, None)
        if whole[: len(asked)] != asked or last is None:
            raise UsageError(
                "the chat template renders a turn otherwise once the next one is there",
                where=str(tokenizer.name_or_path),
                remedy="Use a template that appends turns, such as ChatML.",
            )
        learnt += [False] * (len(asked) - len(learnt)) + [True] * (last - len(asked))
    return whole[: len(learnt)], learnt


def asking(tokenizer: PreTrainedTokenizerBase, messages: _Messages) -> tuple[int, ...]:
    """Returns a conversation's tokens, with what begins an answer."""
    return _tokens(tokenizer, messages, asks=True)


def _tokens(
    tokenizer: PreTrainedTokenizerBase, messages: _Messages, *, asks: bool
) -> tuple[int, ...]:
    render = partial(tokenizer.apply_chat_template, tokenize=False)
    try:
        text: Any = render(list(messages), add_generation_prompt=asks)
    except Exception as error:  # whatever a template says
        roles = ", ".join(message["role"] for message in messages)
        raise UsageError(
            f"the chat template refuses a conversation of {in_one_line(roles, 80)} ({type(error).__name__})",
            where=str(tokenizer.name_or_path),
            remedy="Most templates take an optional system message and then user and assistant in turns; some take "
            "no system message: correct the records, or use another model.",
        ) from error
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


def _endless(tokenizer: PreTrainedTokenizerBase) -> UsageError:
    return UsageError(
        "of its chat template, answers would be learnt without the token that ends them",
        where=str(tokenizer.name_or_path),
        remedy="The template must put a special token after each answer, such as <|im_end|>: make it one in "
        "tokenizer_config.json.",
    )
