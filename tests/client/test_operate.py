"""What `hortus client` keeps between questions, and how it ends."""

import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, cast

import pytest

from hortus.client.operate import WarmWorkbench
from hortus.client.site.folder import Site
from hortus.protocol.plan import Contract


def test_a_model_that_is_asked_for_thrice_at_once_is_loaded_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded = []

    def load(*_: Any) -> str:
        time.sleep(0.2)
        loaded.append("model")
        return "model"

    monkeypatch.setattr("hortus.client.operate.Workbench", load)
    site = SimpleNamespace(model_path=lambda _: None, model_digest=lambda _: "b")
    warm = WarmWorkbench(cast("Site", site))
    contract = cast("Contract", SimpleNamespace(digest=lambda: "a", model_digest="b"))
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(warm, [contract] * 3))
    assert loaded == ["model"]
