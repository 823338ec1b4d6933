"""`hortus dashboard SITE_DIR`: a site in its operator's browser, read beside its agent.

It holds what `hortus status SITE_DIR` knows and what the ledger says. It needs no private key, writes
nothing, and is for this site alone: a dataset's fingerprint would tell others when its records change.
"""

import shlex
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from hortus.client.operator.ledger_view import LedgerView, epsilon_plot, view_ledger
from hortus.client.site.connection import Connection, Link, read_connection
from hortus.pages.live import PROBLEM, Shown
from hortus.pages.plots import describe, svg
from hortus.pages.templates import templates
from hortus.parties.card import ServerCard, SiteCard, load_card
from hortus.parties.expiry import Expiry, expiries
from hortus.parties.fingerprint import key_words, roster_words
from hortus.parties.folders import SiteConfig, SiteFiles
from hortus.privacy.ledger.reader import LedgerReader
from hortus.protocol.identity import Roster, key_at
from hortus.protocol.policy import Budget, Policy
from hortus.runtime.errors import UsageError
from hortus.runtime.locks import is_held
from hortus.runtime.moments import day, moment
from hortus.runtime.names import SERVER

_ROUNDS_SHOWN = 50
_OTHERS_SHOWN = 20
_NEARLY = 0.9
# Certificates end, and a curve grows to the right, though no file changes.
_LOOK_SECONDS = 600


@dataclass(frozen=True, slots=True)
class Server:
    """Whom the site has pinned as its server.

    Attributes:
        superlink: Host and port of Flower's connection.
        aggregation: Host and port of the secure sums.
        words: Its fingerprint.
    """

    superlink: str
    aggregation: str
    words: str


@dataclass(frozen=True, slots=True)
class SitePage:
    """A site at one moment.

    Attributes:
        directory: Its folder.
        name: Its name.
        words: Its fingerprint.
        is_running: Whether its agent is.
        connection: State of the agent's connection, as it reports it; None if it is not running.
        server: The pinned server; None where none is yet.
        sites: All sites that are pinned, this one among them.
        roster_words: Fingerprint of all pinned keys; empty if no key is pinned.
        seen: When the server last countersigned the ledger, in seconds since the epoch; None: never.
        budget: What the policy allows.
        certificates: The ends of TLS certificates.
        ledger: What the ledger says.
        now: Seconds since the epoch.
    """

    directory: Path
    name: str
    words: str
    is_running: bool
    connection: Connection | None
    server: Server | None
    sites: tuple[str, ...]
    roster_words: str
    seen: float | None
    budget: Budget
    certificates: tuple[Expiry, ...]
    ledger: LedgerView
    now: float

    @property
    def state(self) -> str:
        """The site's state, in a word or two."""
        if not self.is_running:
            return "not running"
        return "starting" if self.connection is None else self.connection.link.value

    @property
    def style(self) -> str:
        """The state as the style sheet knows it."""
        if not self.is_running:
            return "silent"
        link = self.connection.link if self.connection else Link.TRYING
        return {Link.UP: "running", Link.DOWN: "stopped", Link.TRYING: "open"}[link]

    @property
    def warnings(self) -> list[str]:
        """What the operator has to see to, a sentence each."""
        return list(_warnings(self))


def _warnings(view: SitePage) -> Iterator[str]:
    here, now = shlex.quote(str(view.directory)), datetime.fromtimestamp(view.now, UTC)
    if view.server is None:
        yield f"No server is pinned yet: hortus roster add {here} server.card.yaml"
    for expiry in view.certificates:
        if (warning := expiry.warning(now)) is not None:
            yield f"{warning[0].upper()}{warning[1:]}"
    for line in view.ledger.datasets:
        which = f"Dataset {line.dataset[:8]}"
        if line.frozen is not None:
            yield f"{which} is frozen: {line.frozen}. hortus budget unfreeze {here} lifts the freeze."
        if line.unit != view.budget.unit:
            yield (
                f"Releases from {which} protect one {line.unit}, but the policy protects one "
                f"{view.budget.unit}: this site refuses every plan, because such losses cannot be added up."
            )
        if line.spent >= line.limit:
            yield f"{which} has spent its whole budget. hortus budget grant {here} allows more, for a reason."
        elif line.share >= _NEARLY:
            yield f"{which} has spent {100 * line.share:.0f} % of its budget."
    if lasting := sum(not line.outcome for line in view.ledger.refusals):
        plans = "one plan" if lasting == 1 else f"{lasting} plans"
        yield f"This site refuses {plans}: see what was refused, below."


class SiteSource:
    """A site's folder, as a page is read from it.

    Args:
        directory: The folder.
        clock: Seconds since the epoch.

    Raises:
        UsageError: A file is missing or wrong; it names the file and the field.
    """

    def __init__(self, directory: Path, clock: Callable[[], float]) -> None:
        self._files = SiteFiles(directory)
        self._name = SiteConfig.load(self._files.config).site
        self._clock = clock
        self._reader = LedgerReader(self._files.ledger, self._name)
        self._templates = templates("hortus.client.operator")
        self._templates.filters |= {"moment": moment, "day": day}

    def view(self) -> SitePage:
        """Reads the folder.

        Raises:
            UsageError: A file is missing or wrong; it names the file and the field.
            HortusError: The ledger cannot be read, or was altered.
        """
        files, now = self._files, self._clock()
        card = load_card(files.card(self._name))
        if not isinstance(card, SiteCard):
            raise UsageError("this is not a site's card", where=str(files.card(self._name)))
        budget = Policy.load(files.policy).budget
        self._reader.look(partial(key_at, card.key, card.handovers))
        roster = Roster.load(files.roster) if files.roster.exists() else None
        is_running = is_held(files.lock)
        return SitePage(
            directory=files.directory,
            name=self._name,
            words=key_words(self._name, card.key),
            is_running=is_running,
            connection=read_connection(files) if is_running else None,
            server=None if roster is None else _server(files, roster),
            sites=() if roster is None else tuple(sorted(roster.sites)),
            roster_words="" if roster is None else roster_words(roster),
            seen=self._reader.seen,
            budget=budget,
            certificates=tuple(expiries(files)),
            ledger=view_ledger(self._reader.entries, self._reader.books, budget, now),
            now=now,
        )

    def signature(self) -> Hashable:
        """See `Source`."""
        files = self._files
        wal = files.ledger.with_name(f"{files.ledger.name}-wal")
        followed = (
            *(files.ledger, wal, files.policy, files.roster, files.config, files.connection),
            *(files.card(self._name), files.card(SERVER)),
            *(files.tls.certificate, files.tls.authority),
        )
        stamps = tuple(map(_stamp, followed))
        return (stamps, is_held(files.lock), int(self._clock() // _LOOK_SECONDS))

    def show(self) -> Shown:
        """See `Source`."""
        view = self.view()
        parts: Any = self._templates.get_template("site_parts.html").module
        plot = epsilon_plot(view.ledger)
        rendered = {
            "plot": parts.plot(svg(plot), describe(plot)),
            "round-rows": parts.round_rows(view, _ROUNDS_SHOWN),
            "refusal-rows": parts.refusal_rows(view, _OTHERS_SHOWN),
            "decision-rows": parts.decision_rows(view, _OTHERS_SHOWN),
            "plan-rows": parts.plan_rows(view),
            "dataset-rows": parts.dataset_rows(view),
            "changed": moment(view.now),
        }
        rendered |= {
            name: getattr(parts, name)(view)
            for name in ("state", "lead", "now", "warnings", "tiles", "facts")
        }
        return Shown(
            title=f"{view.name}: {view.state}, Hortus",
            said=_news(view),
            parts={PROBLEM: "", **{name: str(part).strip() for name, part in rendered.items()}},
        )

    def page(self, shown: Shown) -> str:
        """See `Source`."""
        return self._templates.get_template("site.html").render(
            name=self._name,
            title=shown.title,
            parts=shown.parts,
            rounds_shown=_ROUNDS_SHOWN,
            audit=f"hortus audit {shlex.quote(str(self._files.directory))}",
        )


def _server(files: SiteFiles, roster: Roster) -> Server:
    config, path = SiteConfig.load(files.config), files.card(SERVER)
    card = load_card(path)
    if not isinstance(card, ServerCard):
        raise UsageError("this is not a server's card", where=str(path))
    return Server(
        superlink=config.superlink or card.superlink,
        aggregation=config.aggregation or card.aggregation,
        words=key_words(SERVER, roster.server),
    )


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError:
        return 0, 0, 0
    return found.st_ino, found.st_mtime_ns, found.st_size


def _news(view: SitePage) -> str:
    news = f"{view.name}: {view.state}."
    most = max(view.ledger.datasets, key=lambda line: line.share, default=None)
    if most is not None:
        news += f" ε {most.spent:.3f} of {most.limit:g} is spent."
    return news
