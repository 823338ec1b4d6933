"""What parsers under test need around them: a small consortium, and a folder for the files they read."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from attacks.world import SITES, World
from conftest import save_tiny_model, write_records, write_tiny_plan
from fuzzing.parser import Parser

from hortus.client.site.folder import Site
from hortus.learning.models.folder import model_digest
from hortus.planning.plan_file import load_plan
from hortus.privacy.gradients.workbench import Workbench
from hortus.protocol.identity import Identity, Roster
from hortus.protocol.plan import Contract

_RECORDS = 6
_Answer = TypeVar("_Answer")


class Defect(Exception):  # noqa: N818 - what an agent calls it
    """An agent answered, but says in its log that it has a defect."""


class _Defects(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if "a defect" in record.getMessage():
            self.found.append(record.getMessage())


def without_defects(ask: Callable[[], _Answer]) -> _Answer:
    """Returns an agent's answer; an agent answers whatever happens, and its log has a defect's name.

    Raises:
        Defect: There was one.
    """
    told, defects = logging.getLogger("hortus.client.agent"), _Defects()
    told.addHandler(defects)
    try:
        answer = ask()
    finally:
        told.removeHandler(defects)
    if defects.found:
        raise Defect(defects.found[0])
    return answer


@dataclass
class Setting:
    """A consortium of four sites with six records each, in one folder.

    Attributes:
        folder: Where everything lies; whoever made it removes it.
    """

    folder: Path
    sites: dict[str, Site] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.plan = write_tiny_plan(
            self.folder,
            save_tiny_model(self.folder / "model"),
            cohort={"minimum": 3, "max_colluding": 1, "join_deadline": 5, "step_deadline": 5},
        )
        for number, site in enumerate(SITES):
            write_records(self.folder / f"{site}.csv", _RECORDS, 7 * number)

    @cached_property
    def contract(self) -> Contract:
        digest = model_digest(self.folder / "model")
        return load_plan(self.plan).contract(model_digest=digest, noise_multiplier=5.0)

    @cached_property
    def world(self) -> World:
        workbench = Workbench(self.contract, self.folder / "model")
        data = {site: self.folder / f"{site}.csv" for site in SITES}
        return World.create(self.folder / "consortium", self.contract, workbench, data, {})

    @cached_property
    def roster(self) -> Roster:
        return Roster.load(self.world.consortium.server.roster)

    def identity(self, name: str) -> Identity:
        return Identity.load(self.world.consortium.site(name).identity, name)

    def site(self, name: str) -> Site:
        """A site's opened folder, always the same."""
        if name not in self.sites:
            self.sites[name] = self.world.site(name)
        return self.sites[name]

    def read_with(self, load: Callable[[Path], Any], name: str) -> Callable[[bytes], Any]:
        """Makes a reader of bytes out of one of files, in a folder of its own."""
        path = self.folder / "fuzzed" / name.replace(".", "-") / name
        path.parent.mkdir(parents=True, exist_ok=True)

        def read(data: bytes) -> Any:
            path.write_bytes(data)
            return load(path)

        return read

    def close(self) -> None:
        for site in self.world.opened:
            site.__exit__()


Maker = Callable[[Setting], Parser]
