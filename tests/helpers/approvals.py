"""Plans that sites have approved, where a test is about something else."""

import time
from collections.abc import Callable

from hortus.client.consent.approval import approve_unasked
from hortus.client.site.folder import Site
from hortus.parties.folders import Consortium
from hortus.protocol.plan import Contract


def approve_everywhere(
    consortium: Consortium, *contracts: Contract, clock: Callable[[], float] = time.time
) -> Consortium:
    """Approves plans at each site, as its operator does; returns the consortium."""
    for name in consortium.sites:
        with Site(consortium.site(name).directory, clock) as site:
            for contract in contracts:
                approve_unasked(site, contract, "Ada")
    return consortium
