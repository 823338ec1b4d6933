"""Folders of base models: config.json, tokenizers, indexes and safetensors, of several architectures."""

import io
import json
import shutil
import struct
import zipfile
from pathlib import Path
from random import Random

import torch
from fuzzing.mutation import of_bytes, of_json, of_tree, zipped
from fuzzing.parser import Documented, Parser, must
from fuzzing.setting import Maker, Setting
from helpers.tiny_models import ARCHITECTURES, in_parts

from hortus.learning.methods.lora import LoRA
from hortus.learning.models.folder import model_digest, resolve_model
from hortus.learning.tasks.classification import TextClassification
from hortus.privacy.gradients.workbench import Workbench
from hortus.protocol.plan import Contract, Plan, Training
from hortus.protocol.privacy import Privacy
from hortus.strategies.fedsgd import FedSGD
from tests.helpers.labelled import labelled

_TASK = TextClassification(labels=("warm", "cool"), max_length=16)
_TEXTS = ("apple", "Ä ж 木 \u200b", "\U0001f331" * 40, "the " * 99)
_NAMES = (
    "vocab.txt",
    "merges.txt",
    "adapter_config.json",
    "model.py",
    "pytorch_model.bin",
    "x.model",
)
_EXTREMES = (float("nan"), float("inf"), -1e38, 1e-45, 0.0)


def _contract(targets: tuple[str, ...]) -> Contract:
    plan = Plan(
        name="fuzzed",
        model="fuzzed",
        task=_TASK,
        adapter=LoRA(rank=2, targets=targets),
        training=Training(rounds=1, sampling_rate=0.1, nominal_units=9),
        strategy=FedSGD(),
        privacy=Privacy(noise_multiplier=1.0),
    )
    return plan.contract(model_digest="0" * 64, noise_multiplier=1.0)


def of_safetensors(data: bytes, chance: Random) -> bytes:
    """Changes what the header of a safetensors file means, one of its numbers, or its bytes."""
    if len(data) < 8 or chance.random() < 0.2:
        return of_bytes(data, chance)
    (length,) = struct.unpack("<Q", data[:8])
    header, body = data[8 : 8 + length], bytearray(data[8 + length :])
    if chance.random() < 0.3 and len(body) > 4:
        place = 4 * chance.randrange(len(body) // 4)
        body[place : place + 4] = struct.pack("<f", chance.choice(_EXTREMES))
    else:
        try:
            header = json.dumps(of_tree(json.loads(header), chance)).encode()
        except (ValueError, RecursionError, TypeError):
            header = of_bytes(header, chance)
    return struct.pack("<Q", len(header)) + header + bytes(body)


def _folder(setting: Setting, name: str, *, parts: bool) -> Parser:
    architecture, folder = ARCHITECTURES[name], setting.folder / f"fuzzed-{name}"
    saved = architecture.save(setting.folder / f"saved-{name}")
    if parts:
        in_parts(saved)
    seed = zipped([(path.name, path.read_bytes()) for path in sorted(saved.iterdir())])
    contract = _contract(architecture.targets)

    def read(data: bytes) -> None:
        _unpack(data, folder)
        path = resolve_model(str(folder), Path())
        digest = model_digest(path)
        bench = Workbench(contract, path, shares_passes=False)
        encoded = bench.loader.encode(labelled(_TEXTS, torch.arange(len(_TEXTS)).numpy() % 2))
        must(
            all(1 <= len(one.tokens) <= 16 for one in encoded.examples),
            "tokens of another number",
        )
        again = _TASK.load(path).backbone.state_dict()
        plain = {
            name.replace(".base_layer", "").removeprefix("base_model.model.encoder."): value
            for name, value in bench.model.state_dict().items()
        }
        must(all(torch.equal(value, plain[name]) for name, value in again.items()), "made up")
        must(model_digest(path) == digest, "another digest when it was read")

    kind = f"model folder, {name}" + (" in parts" if parts else "")
    return Parser(kind, (seed,), _of_folder, read, 0.02)


def _of_folder(data: bytes, chance: Random) -> bytes:
    """Changes a file of a folder, or removes, renames or exchanges some."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as bundle:
            members = {name: bundle.read(name) for name in bundle.namelist()}
    except Exception:  # noqa: BLE001 - whatever zipfile says of what was changed before
        return of_bytes(data, chance)
    name, other = chance.choice(list(members)), chance.choice(list(members))
    match chance.randrange(16):
        case 0:
            del members[name]
        case 1:
            members[chance.choice(_NAMES)] = members.pop(name)
        case 2:
            members[name] = members[other]
        case _:
            change = of_json if name.endswith(".json") else of_safetensors
            members[name] = change(members[name], chance)
    return zipped(list(members.items()))


def _unpack(data: bytes, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as bundle:
            members = [(one, bundle.read(one)) for one in bundle.namelist()]
    except Exception as error:
        raise Documented("no folder can be made of it") from error
    for name, content in members:
        safe = Path(name).name.replace("\x00", "").strip(".")[:60] or "x"
        (folder / safe).write_bytes(content)


def model_of_bert(setting: Setting) -> Parser:
    return _folder(setting, "bert", parts=False)


def model_in_parts(setting: Setting) -> Parser:
    return _folder(setting, "roberta", parts=True)


def model_of_gpt2(setting: Setting) -> Parser:
    return _folder(setting, "gpt2", parts=False)


def model_of_llama(setting: Setting) -> Parser:
    return _folder(setting, "llama", parts=False)


def model_of_t5(setting: Setting) -> Parser:
    return _folder(setting, "t5", parts=False)


def model_of_experts(setting: Setting) -> Parser:
    return _folder(setting, "mixtral", parts=False)


MODELS: tuple[Maker, ...] = (
    model_of_bert,
    model_in_parts,
    model_of_gpt2,
    model_of_llama,
    model_of_t5,
    model_of_experts,
)
