"""One session of many sites, or of long vectors: seconds and memory of the whole process.

    python benchmarks/secure_sum_scale.py SITES PARAMETERS

All sites and the server run in this process, over mutual TLS on loopback. What there must be is, for
each site, its vector and its copy of the adapter, and for the server the adapter and the total;
the rest is what the transfers need.
"""

import resource
import sys
from collections.abc import Iterator
from contextlib import ExitStack

from secure_sum import Loopback, Row, no_training, record

_STEPS = 2


def peak_bytes() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def session(sites: int, parameters: int) -> Iterator[Row]:
    name = f"scale: {sites} sites x {parameters / 1e6:g} M parameters"
    with ExitStack() as stack:
        loopback = Loopback(stack, sites)
        channels = {site: loopback.channel(site) for site in loopback.names}
        before = peak_bytes()
        keys, steps = loopback.session(channels, parameters, _STEPS, no_training, secure=True)
        used = peak_bytes() - before
    vectors = 4 * parameters * (2 * sites + 3)
    note = f"{steps[-1] / sites * 1000:.0f} ms a site; key exchange {keys:.1f} s in all"
    yield Row(f"{name}, seconds a step", steps[-1], "", note)
    yield Row(
        f"{name}, peak memory / (vectors and adapters of all parties)",
        used / vectors,
        "",
        f"{used / 2**30:.2f} GiB; beyond the vectors {(used - vectors) / sites / 2**20:.1f} MiB a site",
    )


def main() -> None:
    sites, parameters = int(sys.argv[1]), int(sys.argv[2])
    command = f"python benchmarks/secure_sum_scale.py {sites} {parameters}"
    record(command, session(sites, parameters))


if __name__ == "__main__":
    main()
