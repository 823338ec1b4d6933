import csv
from pathlib import Path

import pytest

from hortus.learning.data.records import Records, read_records
from hortus.learning.tasks.classification import TextClassification
from hortus.simulation.corpus import labels, write_demo
from tests.helpers.labelled import labels_of, texts_of

TASK = TextClassification(labels=labels())


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("corpus")
    write_demo(directory, 7)
    return directory


@pytest.fixture(scope="module")
def sites(corpus: Path) -> dict[str, Records]:
    return {
        path.stem: read_records(path, TASK)
        for path in sorted(corpus.glob("*.csv"))
        if path.stem != "test"
    }


def test_the_same_seed_writes_the_same_files(corpus: Path, tmp_path: Path) -> None:
    names = write_demo(tmp_path / "again", 7)
    write_demo(tmp_path / "other", 8)
    for name in names:
        content = (tmp_path / "again" / f"{name}.csv").read_bytes()
        assert content == (corpus / f"{name}.csv").read_bytes()
        assert content != (tmp_path / "other" / f"{name}.csv").read_bytes()


def test_every_site_lacks_classes_that_the_others_have(sites: dict[str, Records]) -> None:
    assert len(sites) == 6
    for records in sites.values():
        assert 300 <= len(records) <= 600
        assert len(set(labels_of(records))) <= len(labels()) - 5
    assert {label for records in sites.values() for label in labels_of(records)} == set(
        range(len(labels()))
    )


def test_the_test_set_is_balanced_and_new(corpus: Path, sites: dict[str, Records]) -> None:
    test = read_records(corpus / "test.csv", TASK)
    counts = {label: labels_of(test).count(label) for label in range(len(labels()))}
    assert set(counts.values()) == {60}
    seen = {text for records in sites.values() for text in texts_of(records)}
    assert not seen & set(texts_of(test))


def test_some_training_labels_are_wrong_and_no_slot_is_left(corpus: Path) -> None:
    rows = list(csv.DictReader((corpus / "harbor-bank.csv").open(encoding="utf-8")))
    assert not any("{" in row["text"] for row in rows)
    lost = [row for row in rows if "purse" in row["text"]]
    assert lost
    assert (corpus / "labels.txt").read_text().split() == list(labels())
