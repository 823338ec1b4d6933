"""What `hortus client` keeps between questions, and how it ends."""

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from hortus.client.operate import WarmWorkbench, run_site
from hortus.client.site import Site
from hortus.protocol.consortium import ServerConfig
from hortus.protocol.membership import create_consortium
from hortus.protocol.plan import Contract
from hortus.protocol.policy import Budget, Policy
from tests.conftest import write_records


def test_a_model_that_is_asked_for_thrice_at_once_is_loaded_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loaded = []

    def load(*_: Any) -> str:
        time.sleep(0.2)
        loaded.append("model")
        return "model"

    monkeypatch.setattr("hortus.client.operate.Workbench", load)
    warm = WarmWorkbench(
        cast("Site", SimpleNamespace(model_path=lambda _: None, model_digest=lambda _: ""))
    )
    contract = cast("Contract", SimpleNamespace(digest=lambda: "a", model_digest=""))
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(warm, [contract] * 3))
    assert loaded == ["model"]


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({}, None),
        ({"unsafe_seeded_noise": True}, "unsafe_seeded_noise"),
        ({"unsafe_no_privacy": True}, "unsafe_no_privacy"),
    ],
)
def test_what_a_policy_gives_up_is_said_at_each_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, changes: dict[str, bool], word: str | None
) -> None:
    policy = Policy(budget=Budget(epsilon=1.0, delta=1e-5), **changes)
    data = {"ash": tmp_path / "ash.csv", "birch": tmp_path / "birch.csv"}
    addresses = ServerConfig(aggregation="127.0.0.1:1", superlink="127.0.0.1:1")
    consortium = create_consortium(
        tmp_path / "c", data, dict.fromkeys(data, policy), addresses, datetime.now(UTC)
    )
    for path in data.values():
        write_records(path, 6)
    for _ in range(2):
        run_site(consortium.site("ash").directory, lambda: True)
    told = [r.getMessage() for r in caplog.records if "policy.yaml has unsafe" in r.getMessage()]
    assert len(told) == (0 if word is None else 2)
    assert all(word in line and "protect" in line for line in told if word)
