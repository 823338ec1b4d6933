"""`hortus check SITE_DIR`: what a site can find out before a run, or while one does not come about."""

import os
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime

from hortus.client.consent.refusals import check_model
from hortus.client.operator.accounts import AccountLine, account_lines
from hortus.client.site.folder import Site
from hortus.parties.card import ServerCard, load_card
from hortus.parties.checks import (
    Check,
    Outcome,
    check_open_files,
    check_party,
    guarded,
    needed_files,
    of_reaching,
    open_files_limit,
)
from hortus.parties.folders import SiteConfig, SiteFiles, host_and_port
from hortus.parties.reach import MOST_AHEAD, MOST_BEHIND, greet, in_words, knock, resolve
from hortus.privacy.ledger.store import Ledger
from hortus.protocol.identity import Identity, Roster
from hortus.protocol.plan import Contract
from hortus.protocol.policy import Budget, Policy
from hortus.runtime.errors import UsageError
from hortus.runtime.locks import is_held
from hortus.runtime.names import SERVER
from hortus.runtime.proxies import proxy_for


def check_site(files: SiteFiles, now: datetime) -> Iterator[Check]:
    """Checks all of a site's folder and surroundings that needs no plan.

    Raises:
        UsageError: site.yaml is not there or wrong.
    """
    config = SiteConfig.load(files.config)
    runs = is_held(files.lock)
    yield Check("agent", Outcome.OK, "it runs" if runs else "it does not run")
    yield from check_party(files, now)
    sites = len(Roster.load(files.roster).sites) if files.roster.exists() else 0
    yield check_open_files(open_files_limit(), needed_files(sites))
    yield guarded("policy", lambda: _check_policy(files))
    yield guarded("ledger", lambda: _check_ledger(files, config, now))
    yield from check_way(files, config, now)


def check_way(files: SiteFiles, config: SiteConfig, now: datetime) -> Iterator[Check]:
    """Goes the way to the server, to both of its ports: name, port, TLS and clock."""
    path = files.card(SERVER)
    try:
        card = load_card(path)
    except UsageError as error:
        remedy = f"hortus roster add {files.directory} server.card.yaml"
        yield Check("server's card", Outcome.PROBLEM, str(error), remedy)
        return
    if not isinstance(card, ServerCard):
        yield Check("server's card", Outcome.PROBLEM, f"{path} is not a server's card")
        return
    superlink = config.superlink or card.superlink
    aggregation = config.aggregation or card.aggregation
    for host in dict.fromkeys(host_and_port(address)[0] for address in (superlink, aggregation)):
        yield guarded("name", lambda h=host: _check_name(h))  # type: ignore[misc]
    for what, address, http in (
        ("SuperLink", superlink, True),
        ("aggregation", aggregation, False),
    ):
        yield from _check_port(files, what, address, now, speaks_http=http)


def _check_name(host: str) -> Check:
    """A server's name leads to an address, or its proxy's does, which looks up the server's."""
    proxy = proxy_for(host, os.environ)
    if proxy is None:
        return of_reaching("name", resolve(host), f"{host} resolves to an address")
    said = f"{proxy.host} resolves to an address; {proxy.variable} names it as the proxy for {host}"
    return of_reaching("name", resolve(proxy.host, proxy.variable), said)


def _check_port(
    files: SiteFiles, what: str, address: str, now: datetime, *, speaks_http: bool
) -> Iterator[Check]:
    port = of_reaching(f"port of {what}", knock(address), f"{address} can be reached")
    if port.verdict is Outcome.PROBLEM and not speaks_http:
        # It is open only during a run.
        port = Check(
            port.what,
            Outcome.WARNING,
            port.said,
            f"It is open only while the server serves a plan. {port.remedy}",
        )
    yield port
    if port.verdict is not Outcome.OK or not files.tls.certificate.exists():
        return
    found = greet(address, files.tls, now, speaks_http=speaks_http)
    if found.ahead is not None and found.problem:
        yield Check(f"TLS of {what}", Outcome.OK, "the pinned authority vouches for it")
        yield Check("clock", Outcome.PROBLEM, found.problem, found.remedy)
        return
    yield of_reaching(f"TLS of {what}", found, "the pinned authority vouches for it")
    if found.ahead is not None:
        allowed = f"{in_words(MOST_BEHIND)} behind to {in_words(MOST_AHEAD)} ahead are allowed"
        said = f"within {max(1.0, abs(found.ahead)):.0f} s of the server's; {allowed}"
        yield Check("clock", Outcome.OK, said)


def check_account(line: AccountLine, budget: Budget) -> Check:
    """A dataset has something left of its budget, and is not frozen."""
    what = f"budget of dataset {line.dataset[:8]}"
    if line.frozen:
        remedy = "hortus budget unfreeze, by whoever froze it."
        return Check(what, Outcome.PROBLEM, f"it is frozen: {line.frozen}", remedy)
    if line.unit != budget.unit:
        said = f"it was spent for a {line.unit}, but the policy protects a {budget.unit}"
        return Check(what, Outcome.WARNING, said, "Losses of different units cannot be added up.")
    said = f"ε {line.spent:.3f} of {line.limit:g} is spent"
    if line.spent >= line.limit:
        return Check(what, Outcome.PROBLEM, said, "hortus budget grant adds to it, for a reason.")
    return Check(what, Outcome.OK, said)


def check_plan(site: Site, contract: Contract) -> Iterator[Check]:
    """A plan's model and columns fit what is here. Records are read; what is said of them stays here."""
    what = f"{contract.name}: model"

    def model() -> Check:
        check_model(contract, site.model_digest(contract))
        return Check(what, Outcome.OK, f"{contract.model_digest[:16]}…, as the plan says")

    yield guarded(what, model)
    told = f"{contract.name}: data"

    def data() -> Check:
        records = site.dataset(contract).records
        counted = f"{len(records):,} records"
        if contract.privacy.unit_column:
            counted += f" of {records.unit_count:,} different {contract.privacy.unit}"
        return Check(told, Outcome.OK, f"columns, labels and unit fit: {counted} (shown only here)")

    yield guarded(told, data)


def _check_policy(files: SiteFiles) -> Check:
    policy = Policy.load(files.policy)
    budget = policy.budget
    return Check(
        "policy",
        Outcome.OK,
        f"ε up to {budget.epsilon:g} at δ = {budget.delta:g} for each {budget.unit}, sums of at least "
        f"{policy.min_cohort} sites",
    )


def _check_ledger(files: SiteFiles, config: SiteConfig, now: datetime) -> Check:
    """The ledger opens, its chain holds, and every dataset in it has something left."""
    if not files.ledger.exists():
        return Check("ledger", Outcome.OK, "nothing has been released yet")
    identity, budget = (
        Identity.load(files.identity, config.site),
        Policy.load(files.policy).budget,
    )
    with closing(Ledger.open(files.ledger, identity, now.timestamp)) as ledger:
        lines = [check_account(line, budget) for line in account_lines(ledger, budget)]
        entries = ledger.head()[0]
    worst = next((line for line in lines if line.verdict is Outcome.PROBLEM), None)
    if worst is not None:
        return worst
    said = "; ".join(f"{line.what}: {line.said}" for line in lines) or "nothing was released"
    return Check("ledger", Outcome.OK, f"{entries} entries, whole; {said}")
