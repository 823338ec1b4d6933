"""Whatever people write is read, and complained about, in one way."""

from pathlib import Path

import pytest
from pydantic import Field

from hortus.runtime.documents import Document
from hortus.runtime.errors import UsageError
from hortus.runtime.schema import Schema, SchemaFile


class Inner(Schema):
    size: int = Field(1, ge=1)


class Config(SchemaFile):
    name: str
    inner: Inner = Inner()
    note: str | None = None


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "config",
    [Config(name="a"), Config(name="å", inner=Inner(size=3)), Config(name="b", note="x: y")],
)
def test_what_is_saved_is_loaded(tmp_path: Path, config: Config) -> None:
    path = tmp_path / "config.yaml"
    config.save(path)
    assert Config.load(path) == config
    assert ("note" in path.read_text(encoding="utf-8")) is (config.note is not None)
    assert config.name in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nam: a\n", "config.yaml: nam: there is no such key: did you mean name?"),
        ("note: x\n", "name: missing"),
        ("name: a\ninner: {size: 0}\n", "config.yaml: inner.size: 0 → should be greater than"),
        ("name: 7\n", "config.yaml: name: 7"),
        ("name: a\ninner:\n  siz: 2\n", "config.yaml: inner.siz: there is no such key"),
        ("name: [a\n", "config.yaml"),
    ],
)
def test_what_is_wrong_is_named_with_its_file_and_field(
    tmp_path: Path, text: str, said: str
) -> None:
    with pytest.raises(UsageError) as caught:
        Config.load(written(tmp_path, text))
    assert said in str(caught.value)


def test_a_part_of_a_document_is_named_by_its_place_in_the_whole(tmp_path: Path) -> None:
    document = Document.read(written(tmp_path, "name: a\ninner:\n  size: 0\n"))
    with pytest.raises(UsageError, match=r"config\.yaml: inner\.size: 0 → "):
        Inner.parse(document.fields()["inner"], document, ("inner",))


def test_fields_without_a_file_are_named_by_what_they_are() -> None:
    with pytest.raises(UsageError, match=r"^options: size: 0 → "):
        Inner.parse({"size": 0}, "options")
