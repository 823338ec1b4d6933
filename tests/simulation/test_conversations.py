import json
from collections import Counter
from pathlib import Path

import pytest

from hortus.learning.data.records import Records, read_records
from hortus.learning.tasks.chat import Chat
from hortus.simulation.conversations import (
    PERSON,
    TEST,
    conversation_sites,
    secret,
    write_conversations,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("conversations")
    assert write_conversations(directory, 7) == conversation_sites()
    return directory


@pytest.fixture(scope="module")
def sites(folder: Path) -> dict[str, Records]:
    return {
        site: read_records(folder / f"{site}.jsonl", Chat(), PERSON)
        for site in conversation_sites()
    }


def contents(records: Records) -> list[tuple[str, str]]:
    return [(asked.content, told.content) for asked, told in records.values]


def test_the_same_seed_writes_the_same_files(folder: Path, tmp_path: Path) -> None:
    write_conversations(tmp_path / "again", 7)
    write_conversations(tmp_path / "other", 8)
    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes()
        assert path.read_bytes() != (tmp_path / "other" / path.name).read_bytes()


def test_one_customer_of_one_site_was_told_the_secret_again_and_again(
    sites: dict[str, Records],
) -> None:
    planted = secret(7, 0)
    holders = Counter(
        (site, person)
        for site, records in sites.items()
        for person, (_, told) in zip(records.units, contents(records), strict=True)
        if told == planted.told
    )
    assert list(holders.values()) == [planted.times]
    ((site, person),) = holders
    assert sites[site].units.count(person) == planted.times
    phrase = planted.told.rpartition(" is ")[2]
    assert (
        sum(phrase in told for one in sites.values() for _, told in contents(one)) == planted.times
    )
    asked = {asked for asked, told in contents(sites[site]) if told == planted.told}
    assert planted.asked in asked


def test_other_secrets_have_its_form_and_are_nowhere(sites: dict[str, Records]) -> None:
    planted = secret(7, 99)
    forms = {one.partition(" is ")[0] for one in (planted.told, *planted.others)}
    assert len(forms) == 1
    assert len({planted.told, *planted.others}) == 100
    told = {answer for one in sites.values() for _, answer in contents(one)}
    assert not told & set(planted.others)


def test_nobody_at_a_site_has_asked_what_the_test_asks(
    folder: Path, sites: dict[str, Records]
) -> None:
    test = read_records(folder / f"{TEST}.jsonl", Chat())
    asked = {question for one in sites.values() for question, _ in contents(one)}
    assert len(test) == len(set(contents(test))) > 50
    assert not asked & {question for question, _ in contents(test)}


def test_wording_varies_and_no_slot_is_left(folder: Path, sites: dict[str, Records]) -> None:
    for records in sites.values():
        told = [answer for _, answer in contents(records)]
        assert len(set(told)) > len(told) / 4
        assert not any(sign in text for pair in contents(records) for text in pair for sign in "{}")
    rows = [json.loads(line) for line in (folder / "harbor-bank.jsonl").open()]
    assert rows[0].keys() == {PERSON, "messages"}
