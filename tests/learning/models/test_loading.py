"""A base model is what its folder says, or is refused by the name of what is wrong."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.tiny_models import ARCHITECTURES, POSITIONS, edit_json, edit_weights, in_parts

from hortus.learning.models.folder import INDEX, WEIGHTS, model_digest, resolve_model
from hortus.learning.models.loading import longest_text
from hortus.learning.tasks.classification import TextClassification
from hortus.protocol.plan import Precision
from hortus.runtime.errors import UsageError

TASK = TextClassification(labels=("warm", "cool"), max_length=16)
Weights = dict[str, torch.Tensor]
LAYER = "encoder.layer.1.output.dense.weight"


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Saves each architecture once."""
    folder = tmp_path_factory.mktemp("architectures")

    def save(name: str) -> Path:
        path = folder / name.replace(" ", "-")
        return path if path.exists() else ARCHITECTURES[name].save(path)

    return save


@pytest.fixture
def copy(saved: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    def copied(name: str) -> Path:
        return Path(shutil.copytree(saved(name), tmp_path / "model"))

    return copied


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_usual_architectures_are_read_whole(saved: Callable[[str], Path], name: str) -> None:
    model = TASK.load(saved(name)).module
    tokens = torch.tensor([[2, 5, 6, 3, 0], [2, 7, 8, 9, 3]])
    logits = model.eval()(input_ids=tokens, attention_mask=(tokens != 0).long()).logits
    assert logits.shape == (2, 2)
    again = TASK.load(saved(name)).module
    assert all(map(torch.equal, model.state_dict().values(), again.state_dict().values()))


def lacks_a_layer(weights: Weights) -> Weights:
    return {name: value for name, value in weights.items() if ".layer.1." not in name}


def lacks_one(weights: Weights) -> None:
    del weights[LAYER]


def of_a_wrapper(prefix: str) -> Callable[[Weights], Weights]:
    return lambda weights: {prefix + name: value for name, value in weights.items()}


def of_another_library(weights: Weights) -> Weights:
    return {name.replace(".dense.", ".linear."): value for name, value in weights.items()}


def of_more_layers(weights: Weights) -> Weights:
    more = {
        n.replace("layer.1", "layer.2"): v.clone() for n, v in weights.items() if "layer.1" in n
    }
    return weights | more


def of_another_size(weights: Weights) -> None:
    weights[LAYER] = torch.zeros(16, 99)


def with_number(value: float) -> Callable[[Weights], None]:
    def change(weights: Weights) -> None:
        weights[LAYER][3, 5] = value

    return change


def in_eight_bits(weights: Weights) -> None:
    weights[LAYER] = weights[LAYER].to(torch.int8)


def in_float8(weights: Weights) -> None:
    weights[LAYER] = weights[LAYER].to(torch.float8_e4m3fn)


def empty(weights: Weights) -> Weights:
    return {"unrelated": torch.zeros(1)}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lacks_a_layer, r"16 weights are missing: encoder\.layer\.1\..*make them up at random"),
        (lacks_one, f"a weight is missing: {re.escape(LAYER)} "),
        (of_a_wrapper("module."), r"missing: .*begin with 'module\.', of a wrapper"),
        (of_a_wrapper("_orig_mod."), r"missing: .*begin with '_orig_mod\.', of a wrapper"),
        (of_a_wrapper("base_model.model."), r"missing: .*begin with 'base_model\.model\.'"),
        (of_another_library, r"weights are missing: .*names were changed"),
        (of_more_layers, r"16 weights are not part of the model .*encoder\.layer\.2\."),
        (of_another_size, rf"{re.escape(LAYER)} is \[16, 99\], not \[16, 24\]"),
        (with_number(float("nan")), rf"1 of the 384 numbers of the weight {re.escape(LAYER)}"),
        (with_number(float("inf")), rf"1 of the 384 numbers of the weight {re.escape(LAYER)}"),
        (with_number(float("-inf")), "are NaN or infinite"),
        (in_eight_bits, f"{re.escape(LAYER)}' is of type I8, which quantised"),
        (in_float8, f"{re.escape(LAYER)}' is of type F8_E4M3, which quantised"),
        (empty, "a model of 5,232 numbers, and the files hold 1 "),
    ],
)
def test_weights_that_are_not_those_of_the_model_are_named(
    copy: Callable[[str], Path], change: Callable[[Weights], Weights | None], told: str
) -> None:
    path = copy("bert")
    edit_weights(path, change)
    with pytest.raises(UsageError, match=told) as caught:
        TASK.load(path)
    assert str(path) in str(caught.value.where)
    assert caught.value.remedy


def lacks_the_pooler(weights: Weights) -> Weights:
    return {name: value for name, value in weights.items() if not name.startswith("pooler")}


def with_a_head(weights: Weights) -> Weights:
    return weights | {"classifier.weight": torch.zeros(3, 16), "qa_outputs.bias": torch.zeros(2)}


def with_old_buffers(weights: Weights) -> Weights:
    return weights | {"embeddings.position_ids": torch.arange(POSITIONS)[None]}


def in_half(weights: Weights) -> Weights:
    return {name: value.half() for name, value in weights.items()}


@pytest.mark.parametrize("change", [lacks_the_pooler, with_a_head, with_old_buffers, in_half])
def test_what_no_model_misses_or_needs_is_no_fault(
    copy: Callable[[str], Path], change: Callable[[Weights], Weights]
) -> None:
    path = copy("bert")
    edit_weights(path, change)
    TASK.load(path)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, r"quantised \(bitsandbytes\)"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, r"quantised \(gptq\)"),
        ({"quantization_config": "awq"}, r"quantised \(awq\)"),
        ({"num_hidden_layers": 3}, "missing: encoder.layer.2"),
        ({"num_hidden_layers": 1}, "not part of the model .*encoder.layer.1"),
        ({"num_hidden_layers": 10**9}, "says num_hidden_layers: 1000000000, and the files hold 39"),
        ({"hidden_size": 32}, "of other shapes than config.json says"),
        ({"hidden_size": 10**6}, "a model of .* numbers, and the files hold"),
        ({"vocab_size": 10**9}, "a model of .* numbers, and the files hold"),
        ({"vocab_size": 99}, "of other shapes than config.json says"),
        ({"model_type": "no-such-thing"}, "cannot be read"),
        ({"model_type": "vit"}, "missing|does not read tokens|cannot be read"),
        ({"num_attention_heads": 3}, "cannot be read"),
        ({"num_attention_heads": 0}, "cannot be read"),
        ({"hidden_act": "no such function"}, "cannot be read"),
        ({"layer_norm_eps": "small"}, "cannot be read"),
        (
            {
                "model_type": "own",
                "auto_map": {"AutoModel": "own.Own", "AutoConfig": "own.OwnConfig"},
            },
            r"custom architecture \(own\)",
        ),
    ],
)
def test_a_config_of_another_model_is_told(
    copy: Callable[[str], Path], fields: dict[str, object], told: str
) -> None:
    path = copy("bert")
    (path / "own.py").write_text("raise SystemExit('was run')")
    edit_json(path / "config.json", **fields)
    with pytest.raises(UsageError, match=told):
        TASK.load(path)


def test_a_key_that_comes_twice_in_a_config_is_refused(copy: Callable[[str], Path]) -> None:
    path = copy("bert") / "config.json"
    path.write_text(path.read_text().replace("{", '{"hidden_size": 99,', 1))
    with pytest.raises(UsageError, match="'hidden_size' comes twice"):
        TASK.load(path.parent)


@pytest.mark.parametrize(
    ("name", "longest"),
    [
        ("bert", POSITIONS),
        ("distilbert", POSITIONS),
        ("roberta", POSITIONS - 1),  # of which the first is of padding
        ("gpt2", POSITIONS),
        ("llama", POSITIONS),
        ("bart", POSITIONS),
        ("t5", None),
    ],
)
def test_a_text_is_no_longer_than_the_model_reads(
    saved: Callable[[str], Path], name: str, longest: int | None
) -> None:
    path = saved(name)
    assert longest_text(TASK.load(path).backbone) == longest
    most = longest or 500
    model = TASK.model_copy(update={"max_length": most}).load(path).module.eval()
    tokens = torch.full((1, most), 5)
    model(input_ids=tokens, attention_mask=torch.ones_like(tokens))
    if longest is not None:
        with pytest.raises(UsageError, match=f"reads {longest} tokens at most, not {longest + 1}"):
            TASK.model_copy(update={"max_length": longest + 1}).load(path)


def test_weights_in_several_files_are_the_same_model(
    copy: Callable[[str], Path], saved: Callable[[str], Path]
) -> None:
    path = in_parts(copy("bert"))
    assert resolve_model(str(path), Path()) == path
    whole, parts = TASK.load(saved("bert")).module, TASK.load(path).module
    assert all(map(torch.equal, whole.state_dict().values(), parts.state_dict().values()))


def test_every_part_is_in_the_digest_and_a_missing_one_is_named(
    copy: Callable[[str], Path],
) -> None:
    path = in_parts(copy("bert"))
    part = path / "model-00002-of-00002.safetensors"
    before, content = model_digest(path), part.read_bytes()
    part.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert model_digest(path) != before
    part.unlink()
    with pytest.raises(UsageError, match=f"1 of its 2 files are missing: {part.name}") as caught:
        TASK.load(path)
    assert caught.value.where == str(path / INDEX)


@pytest.mark.parametrize(
    "index",
    [
        "[]",
        "{}",
        '{"weight_map": {}}',
        '{"weight_map": {"a": 1}}',
        '{"weight_map": {"a": "../x"}}',
        '{"weight_map": {"a": "x\\u0000"}}',
        '{"weight_map": {"a": "x\\ud800"}}',
        '{"weight_map": {"a": "' + "x" * 5000 + '"}}',
        "{",
    ],
)
def test_a_broken_index_is_explained(copy: Callable[[str], Path], index: str) -> None:
    path = in_parts(copy("bert"))
    (path / INDEX).write_text(index)
    with pytest.raises(UsageError) as caught:
        TASK.load(path)
    assert caught.value.where == str(path / INDEX)


def test_a_part_that_lacks_a_weight_is_no_whole_model(copy: Callable[[str], Path]) -> None:
    path = in_parts(copy("bert"))
    index = json.loads((path / INDEX).read_text())
    kept = index["weight_map"].pop(LAYER)
    assert kept.endswith("2-of-00002.safetensors")
    shutil.copy(path / "model-00001-of-00002.safetensors", path / kept)
    with pytest.raises(UsageError, match="missing"):
        TASK.load(path)


def test_a_file_cut_short_is_explained(copy: Callable[[str], Path]) -> None:
    path = copy("bert") / WEIGHTS
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UsageError, match="cannot be read"):
        TASK.load(path.parent)


def test_a_model_beyond_the_memory_is_refused_before_it_is_read(
    saved: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hortus.learning.models.loading.available", lambda _: 20_000)
    with pytest.raises(UsageError, match="takes 0 MiB of memory, and 0 MiB are free"):
        TASK.load(saved("bert"))
    TASK.load(saved("bert"), Precision.BFLOAT16)
