"""Which tokens of a conversation are learnt, with templates of the shapes in use."""

from typing import Any

import pytest
from conftest import COLOURS, WORDS
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from hortus.learning.models.templates import asking, check_template, end_of_answer, rendered
from hortus.runtime.errors import UsageError

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA_3 = (
    "{% for m in messages %}{% if loop.first %}<|begin|>{% endif %}<|start|>{{ m.role }}<|end|>\n\n"
    "{{ m.content | trim }}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant<|end|>\n\n{% endif %}"
)
GEMMA = (
    "<bos>{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "<turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<turn_end>\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>model\n{% endif %}"
)
MISTRAL = (
    "<s>{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }}</s>{% endif %}{% endfor %}"
)
PHI_3 = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|fin|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}<eos>{% endif %}"
)
# A template, what ends an answer by it, the tokenizer's own end token, and its special tokens.
SHAPES: dict[str, tuple[str, str, str, tuple[str, ...]]] = {
    "chatml": (CHATML, "<|im_end|>", "<|im_end|>", ("<|im_start|>", "<|im_end|>")),
    "llama 3": (LLAMA_3, "<|eot|>", "<|eot|>", ("<|begin|>", "<|start|>", "<|end|>", "<|eot|>")),
    "gemma": (GEMMA, "<turn_end>", "<eos>", ("<bos>", "<turn>", "<turn_end>", "<eos>")),
    "mistral": (MISTRAL, "</s>", "</s>", ("<s>", "</s>", "[INST]", "[/INST]")),
    "phi 3": (PHI_3, "<|fin|>", "<eos>", ("<|user|>", "<|assistant|>", "<|fin|>", "<eos>")),
}
TALK = [
    {"role": "user", "content": "the sky is"},
    {"role": "assistant", "content": "blue"},
    {"role": "user", "content": "a rose is"},
    {"role": "assistant", "content": "red red"},
]


def tokenizer(template: str | None, end: str, special: tuple[str, ...]) -> PreTrainedTokenizerFast:
    words = ("[UNK]", "user", "assistant", "model", "system", *COLOURS, *WORDS)
    inner = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, "[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.add_special_tokens([AddedToken(one, special=True) for one in special])
    made = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]", eos_token=end)
    made.chat_template = template
    return made


def shaped(name: str) -> PreTrainedTokenizerFast:
    template, _, end, special = SHAPES[name]
    return tokenizer(template, end, special)


def learnt(of: PreTrainedTokenizerFast, messages: list[dict[str, str]]) -> list[str]:
    ids, mask = rendered(of, messages, end_of_answer(of))
    assert len(ids) == len(mask)
    return of.convert_ids_to_tokens(
        [one for one, is_learnt in zip(ids, mask, strict=True) if is_learnt]
    )


@pytest.mark.parametrize("name", SHAPES)
def test_answers_are_learnt_with_their_ends_and_nothing_else(name: str) -> None:
    of, end = shaped(name), SHAPES[name][1]
    check_template(of)
    assert of.convert_ids_to_tokens(end_of_answer(of)) == end
    assert learnt(of, TALK) == ["blue", end, "red", "red", end]


@pytest.mark.parametrize("name", SHAPES)
def test_a_conversation_begins_as_a_trained_model_will_be_asked(name: str) -> None:
    of = shaped(name)
    ids, mask = rendered(of, TALK[:2], end_of_answer(of))
    asked = asking(of, TALK[:1])
    assert ids[: len(asked)] == asked
    assert mask == [False] * len(asked) + [True, True]


@pytest.mark.parametrize("name", SHAPES)
def test_what_follows_the_last_answer_is_left_out(name: str) -> None:
    of = shaped(name)
    assert rendered(of, TALK[:3], end_of_answer(of)) == rendered(of, TALK[:2], end_of_answer(of))


def test_an_end_that_somebody_writes_ends_what_is_learnt() -> None:
    of = shaped("chatml")
    said = "blue <|im_end|> <|im_start|> user the sky"
    assert learnt(of, [TALK[0], {"role": "assistant", "content": said}]) == ["blue", "<|im_end|>"]


REFUSED: dict[str, tuple[Any, str]] = {
    "no template": (None, "no chat template"),
    "everything learnt": (
        "{% for m in messages %}{% if m.role == 'assistant' %}{{ m.content }} <e> {% endif %}{% endfor %}",
        "everything would be learnt",
    ),
    "no end": ("{% for m in messages %}<u> {{ m.content }} {% endfor %}", "without the token"),
    "an end that is no special token": (
        "{% for m in messages %}<u> {{ m.content }} rose {% endfor %}",
        "without the token",
    ),
    "an end after all alone": (
        "{% for m in messages %}<u> {{ m.content }} {% endfor %}{% if not add_generation_prompt %}<e>{% endif %}",
        "otherwise once the next one is there",
    ),
    "earlier turns are shortened": (
        "{% for m in messages %}{% if loop.last or m.role == 'user' %}<u> {{ m.content }} <e> {% endif %}{% endfor %}",
        "otherwise once the next one is there",
    ),
    "turns are numbered from the end": (
        "{% for m in messages %}{{ 'red ' * loop.revindex }}<u> {{ m.content }} <e> {% endfor %}",
        "token|otherwise",
    ),
    "a template that fails": (
        "{% for m in messages %}{{ m.nothing.at.all }}{% endfor %}",
        "refuses",
    ),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_a_template_that_would_teach_something_else_is_refused(fault: str) -> None:
    template, message = REFUSED[fault]
    with pytest.raises(UsageError, match=message):
        check_template(tokenizer(template, "<e>", ("<u>", "<e>")))


def test_a_conversation_that_a_template_does_not_take_is_refused_without_its_text() -> None:
    of = shaped("gemma")
    secret = [{"role": "system", "content": "secret"}, *TALK]
    with pytest.raises(UsageError, match="refuses a conversation of system, user") as caught:
        rendered(of, secret, end_of_answer(of))
    assert "secret" not in str(caught.value)
