"""What a model writes: the same alone and in company, streamed or at once, drawn or likeliest, and no longer than it reads."""

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from helpers.smollm2 import smollm2
from helpers.tiny_models import ARCHITECTURES, POSITIONS, save_tokenizer

from hortus.learning.models.base import Base
from hortus.learning.models.generation import Writer, Writing
from hortus.learning.models.tokens import load_tokenizer
from hortus.learning.tasks.chat import Chat
from hortus.runtime.errors import UsageError

FAMILIES = {
    "llama": ("LlamaForCausalLM", "AutoModelForCausalLM"),
    "qwen2": ("Qwen2ForCausalLM", "AutoModelForCausalLM"),
    "gpt2": ("GPT2LMHeadModel", "AutoModelForCausalLM"),
    "t5": ("T5ForConditionalGeneration", "AutoModelForSeq2SeqLM"),
    "bart": ("BartForConditionalGeneration", "AutoModelForSeq2SeqLM"),
}
PROMPTS = ((5, 6, 7, 8, 9), (10,), (4, 4, 11))


@pytest.fixture(scope="module", params=FAMILIES)
def writer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Writer:
    name = request.param
    folder = tmp_path_factory.mktemp(name)
    made, read = FAMILIES[name]
    architecture = replace(ARCHITECTURES[name], model=made)
    if name == "t5":
        start = {"decoder_start_token_id": 0, "eos_token_id": 3, "pad_token_id": 0}
        architecture = replace(architecture, fields={**architecture.fields, **start})
    architecture.save(folder, eos_token="[SEP]")
    model = getattr(transformers, read).from_pretrained(folder)
    torch.manual_seed(5)
    for weight in model.parameters():  # random models repeat themselves: make them less sure
        weight.data += 0.3 * torch.randn_like(weight)
    return Writer(Base(model, model, "", ()), load_tokenizer(folder))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_text_is_the_same_alone_and_in_company(writer: Writer, temperature: float) -> None:
    how = Writing(9, temperature, seed=4)
    together = writer.write(PROMPTS, how)
    assert together == [writer.write([prompt], how)[0] for prompt in PROMPTS]
    assert len(set(together)) > 1


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_the_pieces_of_a_stream_are_the_text(writer: Writer, temperature: float) -> None:
    how = Writing(12, temperature, seed=2)
    for prompt in PROMPTS:
        assert "".join(writer.stream(prompt, how)) == writer.write([prompt], how)[0]


def test_what_is_drawn_follows_from_the_seed_alone(writer: Writer) -> None:
    state = torch.random.get_rng_state()
    drawn = [writer.write([PROMPTS[0]], Writing(8, 2.0, seed))[0] for seed in (1, 2, 1)]
    assert drawn[0] == drawn[2] != drawn[1]
    assert torch.equal(state, torch.random.get_rng_state())  # nobody else's numbers are used up


def test_a_stream_that_is_left_stops_the_model(writer: Writer) -> None:
    before = threading.active_count()
    stream = writer.stream((5, 6), Writing(30, 1.0))
    next(stream, None)
    stream.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_the_models_own_settings_of_sampling_are_not_used_and_stay(writer: Writer) -> None:
    plain = writer.write(PROMPTS, Writing(6))
    own: Any = writer._model.generation_config
    own.update(do_sample=True, temperature=9.0, repetition_penalty=3.0, min_new_tokens=4)
    assert writer.write(PROMPTS, Writing(6)) == plain
    assert writer._model.generation_config is own
    own.update(do_sample=False, temperature=None, repetition_penalty=None, min_new_tokens=None)


def test_draws_have_the_models_probabilities(tmp_path: Path) -> None:
    folder = ARCHITECTURES["gpt2"].save(tmp_path)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    writer = Writer(Base(model, model, "", ()), load_tokenizer(folder))
    with torch.no_grad():
        shares = (model(torch.tensor([[5]])).logits[0, -1] / 0.5).softmax(0)
    likeliest = writer._tokenizer.decode([int(shares.argmax())])
    draws = [writer.write([(5,)], Writing(1, 0.5, seed))[0] for seed in range(150)]
    expected = float(shares.max())
    assert abs(draws.count(likeliest) / 150 - expected) < 4 * (expected / 150) ** 0.5


def test_a_text_ends_at_the_end_token_even_where_padding_is_the_same(tmp_path: Path) -> None:
    """As SmolLM2 has it: the pad token is its end token."""
    folder = replace(ARCHITECTURES["llama"], model="LlamaForCausalLM").save(tmp_path)
    save_tokenizer(folder, eos_token="[SEP]", pad_token="[SEP]", frame=False)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    end, word = 3, 6
    with torch.no_grad():  # after a word comes the end, and after anything else the word
        for weight in model.parameters():
            weight.zero_()
        model.model.norm.weight.fill_(1)
        model.model.embed_tokens.weight[:, 0] = 1
        model.model.embed_tokens.weight[word] = torch.eye(16)[1]
        model.lm_head.weight[word, 0] = 1
        model.lm_head.weight[end, 1] = 1
    writer = Writer(Base(model, model, "", ()), load_tokenizer(folder))
    said = writer._tokenizer.decode([word])
    assert writer.write([(5,), (5, 7, 5), (5, word)], Writing(9)) == [said, said, ""]


def test_no_text_is_longer_than_the_model_reads(writer: Writer) -> None:
    if writer._longest is None:
        assert writer._answers_apart  # T5 counts distances, whatever they are
        return
    prompt = (5,) * (POSITIONS - 2)
    assert len(writer.write([prompt], Writing(50))[0].split()) <= POSITIONS
    with pytest.raises(UsageError, match=f"the model reads {POSITIONS}"):
        writer.write([(5,) * (POSITIONS + 1)], Writing(1))
    with pytest.raises(UsageError, match=f"the model reads {POSITIONS}"):
        next(writer.stream((5,) * (POSITIONS + 1), Writing(1)))


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": float("inf")}, "temperature"),
    ],
)
def test_what_nothing_can_be_written_with_is_refused(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError) as caught:
        Writing(**wrong)
    assert caught.value.where == named


def test_a_real_instruct_model_answers_and_stops() -> None:
    path = smollm2()
    tokenizer, task = load_tokenizer(path), Chat(max_length=64)
    writer = Writer(task.load(path), tokenizer)
    prompts = [
        task.prompt(tokenizer, task.ask(question))
        for question in ("What is the capital of France?", "Say hello.")
    ]
    how = Writing(40)
    answers = writer.write(prompts, how)
    assert "Paris" in answers[0]
    assert not any("<|" in answer for answer in answers)
    assert len(tokenizer(answers[0])["input_ids"]) < 40  # it ended by itself
    assert ["".join(writer.stream(prompt, how)) for prompt in prompts] == answers
