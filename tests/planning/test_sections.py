"""Which section of a plan is which kind's, and what a plan file may leave to other files."""

from pathlib import Path
from typing import Any

import pytest

from hortus.planning.plan_file import load_plan, plan_of
from hortus.planning.sections import REGISTRIES, complete, kinds, read_lists
from hortus.runtime.errors import UsageError

FIELDS: dict[str, Any] = {
    "name": "words",
    "model": "model",
    "task": {"labels": ["bread", "cake"]},
    "training": {"rounds": 1, "sampling_rate": 0.5, "nominal_units": 10},
    "privacy": {"epsilon": 8},
}
LISTS = {
    "labels": {"kind": "text-classification"},
    "entities": {"kind": "token-classification"},
}


def test_every_section_of_a_plan_is_some_kinds(tmp_path: Path) -> None:
    plan = plan_of(FIELDS, tmp_path)
    found = dict(kinds(plan))
    assert list(found) == [".".join(registry.place) for registry in REGISTRIES]
    assert found["privacy.clipping"].kind == plan.privacy.clipping.kind == "flat"


def test_what_is_wrong_in_several_sections_is_said_of_each() -> None:
    fields = FIELDS | {"task": {"kind": "tsak"}, "adapter": {"rank": -1}, "privacy": {"engine": 3}}
    before = repr(fields)
    completed, wrong = complete(fields)
    text = "\n".join(map(str, wrong))
    for said in ("task.kind", "adapter.rank", "privacy.engine"):
        assert said in text
    assert completed["task"] == {"kind": "wrong"}
    assert repr(fields) == before, "what was written is left as it is"


@pytest.mark.parametrize("field", LISTS)
@pytest.mark.parametrize("written", ["words.txt", "./deeper/../words.txt", "{folder}/words.txt"])
def test_a_kind_has_its_list_read_from_the_file_that_the_plan_names(
    tmp_path: Path, field: str, written: str
) -> None:
    (tmp_path / "deeper").mkdir()
    (tmp_path / "words.txt").write_bytes("\ufeffPain\n\n  \r\nRénal\n".encode())
    section = LISTS[field] | {field: written.format(folder=tmp_path)}
    plan = plan_of(FIELDS | {"task": section}, tmp_path)
    assert plan.task.fields[field] == ["Pain", "Rénal"]
    assert section[field] == written.format(folder=tmp_path)


@pytest.mark.parametrize("field", LISTS)
@pytest.mark.parametrize("content", [None, b"caf\xe9\n", b"same\nsame\n", b""])
def test_a_list_that_cannot_be_read_is_refused_with_its_place(
    tmp_path: Path, field: str, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / "words.txt").write_bytes(content)
    path = tmp_path / "plan.yaml"
    path.write_text(
        f"name: words\nmodel: model\ntask: {{kind: {LISTS[field]['kind']}, {field}: words.txt}}\n"
        "training: {rounds: 1, sampling_rate: 0.5, nominal_units: 10}\nprivacy: {epsilon: 8}\n"
    )
    with pytest.raises(UsageError, match=rf"task(\.{field})?: "):
        load_plan(path)


def test_only_what_a_kind_lists_is_taken_for_a_file(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("a\n")
    section = {"text": "text", "labels": ["a", "b"]}
    assert read_lists({"task": section}, tmp_path) == {"task": section}
    for other in ({"task": "labels"}, {"task": {"kind": "none", "labels": "text"}}, {}):
        assert read_lists(other, tmp_path) == other
