"""What the server counts for its operators, read from the run's own database at each look.

Left out, since sites' records decide it: how long a round takes.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from hortus.protocol.plan import Contract
from hortus.server.run.records import read_run


class RunCollector(Collector):
    """A run in numbers.

    Args:
        directory: The run's folder.
        contract: What is trained.
        sites: Sites of the roster.
        connected: Whether the SuperLink runs.
    """

    def __init__(
        self, directory: Path, contract: Contract, sites: int, connected: Callable[[], bool]
    ) -> None:
        self._directory = directory
        self._contract = contract
        self._sites = sites
        self._connected = connected

    def collect(self) -> Iterator[Metric]:
        """See `Collector`."""
        rows = read_run(self._directory)
        planned = self._contract.training.rounds
        cohort = len(rows.rounds[-1].sites) if rows.rounds else 0
        gauges = {
            "superlink_up": ("Whether Flower's SuperLink is running.", float(self._connected())),
            "roster_sites": ("Sites in the roster.", self._sites),
            "rounds_planned": ("Rounds that the plan has.", planned),
            "cohort_minimum_sites": (
                "Smallest number of sites that a sum may have.",
                self._contract.cohort.minimum,
            ),
            "cohort_sites": ("Sites in the last sum.", cohort),
        }
        for name, (meaning, value) in gauges.items():
            yield GaugeMetricFamily(f"hortus_server_{name}", meaning, value=value)
        counters = {
            "rounds": ("Rounds done.", len(rows.rounds)),
            "secure_sums": ("Secure sums completed.", sum(r.sums for r in rows.rounds)),
            "secure_sum_attempts": (
                "Attempts at secure sums.",
                sum(r.attempts for r in rows.rounds),
            ),
            "departures": ("Times that a site refused or left.", len(rows.departures)),
        }
        for name, (meaning, value) in counters.items():
            yield CounterMetricFamily(f"hortus_server_{name}", meaning, value=value)
