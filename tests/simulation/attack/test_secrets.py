"""Planted codes: a model trained without privacy gives them away, one trained with it does not."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.tiny_models import ARCHITECTURES, TEMPLATE, VOCABULARY

from hortus.planning.plan_file import load_plan
from hortus.runtime.errors import UsageError
from hortus.simulation.attack import secrets as module
from hortus.simulation.attack.secrets import COPIES, Secrets, find_secrets

SITES = ("ash", "birch")
WORDS = ("Archive", ":", "what", "is", "its", "access", "code?", "The", "code")


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny language model that knows digits."""
    words = (*VOCABULARY, *map(str, range(10)), *WORDS)
    llama = ARCHITECTURES["llama"]
    model = replace(
        llama,
        model="LlamaForCausalLM",
        fields=llama.fields
        | {"vocab_size": len(set(words)), "hidden_size": 64, "intermediate_size": 128},
    )
    return model.save(
        tmp_path_factory.mktemp("writer"),
        vocabulary=tuple(dict.fromkeys(words)),
        chat_template=TEMPLATE,
        eos_token="[SEP]",
        frame=False,
    )


def write_plan(directory: Path, model: Path, **privacy: Any) -> Path:
    row = {
        "messages": [
            {"role": "user", "content": "the sky is"},
            {"role": "assistant", "content": "blue"},
        ]
    }
    for site in SITES:
        (directory / f"{site}.jsonl").write_text("\n".join(json.dumps(row) for _ in range(4)))
    plan = {
        "name": "writer",
        "model": str(model),
        "task": {"kind": "chat", "max_length": 40},
        "adapter": {
            "kind": "lora",
            "rank": 8,
            "alpha": 16,
            "targets": ["q_proj", "v_proj", "o_proj", "gate_proj", "down_proj", "lm_head"],
        },
        "strategy": {"server_optimizer": {"kind": "Adam", "learning_rate": 0.01}},
        "training": {
            "rounds": 1,
            "steps_per_round": 100,
            "sampling_rate": 1.0,
            "nominal_units": 4,
            "precision": "float32",
        },
        "privacy": {"delta": 1e-3, **privacy},
        "simulation": {"sites": {site: f"{site}.jsonl" for site in SITES}},
    }
    path = directory / "plan.yaml"
    path.write_text(yaml.safe_dump(plan))
    return path


def found(path: Path, out: Path, each: int = 1) -> Secrets:
    return find_secrets(load_plan(path), path.parent, out, "birch", each, lambda *_: None)


def test_without_privacy_codes_are_given_away_and_with_it_they_are_not(
    writer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "OTHERS", 31)
    path = write_plan(tmp_path, writer, noise="distributed", epsilon=1.0)
    secrets = found(path, tmp_path / "out")
    often = max(COPIES)
    assert secrets.plain[often].exposure == 5.0
    assert secrets.plain[often].recited == 1
    assert secrets.plain[often].exposure > secrets.base[often].exposure
    assert sum(one.recited for one in secrets.private.values()) == 0
    assert sum(one.exposure for one in secrets.private.values()) < sum(
        one.exposure for one in secrets.plain.values()
    )
    assert "writes 0" in secrets.sentence
    kept = (tmp_path / "out" / "secrets.json").read_bytes()
    assert found(path, tmp_path / "out") == secrets
    assert (tmp_path / "out" / "secrets.json").read_bytes() == kept
    with pytest.raises(UsageError, match="another codes"):
        found(path, tmp_path / "out", each=2)
