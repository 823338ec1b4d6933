"""Every parser of what another party, or a person, gives, under changed input.

Whatever comes in, what comes out is a value that may be taken, or an error of ours: no other exception, and
no hang. `benchmarks/fuzz.py` gives each parser far more, guided by what it reaches.
"""

import logging
import re
import time
from collections.abc import Iterator
from random import Random

import pytest
from fuzzing.all import PARSERS
from fuzzing.parser import TAKEN, Accepted, Parser
from fuzzing.setting import Maker, Setting

from hortus.protocol import identity

_INPUTS = 200
_MOST_SECONDS = 1.0
# What these read is refused as it is: what matters is which changes of it are taken.
_REFUSED = {
    "answer of a Flower node",
    "descriptor of a hostile server",
    "known head, altered",
}


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setting]:
    logging.getLogger("hortus.client.agent").propagate = False
    made = Setting(tmp_path_factory.mktemp("fuzzing"))
    yield made
    made.close()
    logging.getLogger("hortus.client.agent").propagate = True


def tried(parser: Parser, inputs: int) -> int:
    """Gives a parser changed seeds; returns how many it took."""
    chance, taken = Random(parser.name), 0
    for _ in range(inputs):
        data = parser.make(chance)
        started = time.process_time()
        try:
            taken += parser.outcome(data) == TAKEN
        except Exception as error:
            error.add_note(f"{parser.name} was given {data[:2000]!r}")
            raise
        assert time.process_time() - started < _MOST_SECONDS, data[:2000]
    return taken


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("make", PARSERS, ids=lambda make: make.__name__)
def test_changed_input_is_refused_or_means_what_it_says(setting: Setting, make: Maker) -> None:
    parser = make(setting)
    if parser.name not in _REFUSED:
        assert parser.outcome(parser.seeds[0]) == TAKEN
    assert tried(parser, max(8, int(_INPUTS * parser.share))) < _INPUTS


@pytest.mark.parametrize(
    "name",
    ["answer", "announcements", "encapsulations", "head_at_the_notary", "cards", "anchor"],
)
def test_a_signature_that_is_not_checked_is_found(
    setting: Setting, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rules by which a parser accepts too much can fail."""
    parser = next(make for make in PARSERS if make.__name__ == name)(setting)
    for module in ("protocol.identity", "protocol.heads", "parties.card"):
        monkeypatch.setattr(f"hortus.{module}.is_signed", lambda *_: True)
    assert identity.is_signed(b"", "", b"", b"")
    with pytest.raises(Accepted):
        tried(parser, 500)


FOUND = [
    ("entry", rb'"time":"[^"]*"', b'"time":"0x1p+5000"'),
    ("plan", rb"ash: ash.csv", b"ash: {}"),
    ("failure", rb'"exit_code": 3', b'"exit_code": [3]'),
    ("run_database", rb"CREATE TABLE run ", b"CREATE TABLE \xf9un "),
    ("checkpoint", rb".$", b"\x01"),
]


@pytest.mark.parametrize(
    ("name", "pattern", "replacement"), FOUND, ids=[found[0] for found in FOUND]
)
def test_what_fuzzing_found_is_refused(
    setting: Setting, name: str, pattern: bytes, replacement: bytes
) -> None:
    """An error of another kind came of each, or, of the checkpoint, none."""
    parser = next(make for make in PARSERS if make.__name__ == name)(setting)
    data = re.sub(pattern, lambda _: replacement, parser.seeds[0], count=1, flags=re.DOTALL)
    assert data != parser.seeds[0]
    assert parser.outcome(data) != TAKEN
