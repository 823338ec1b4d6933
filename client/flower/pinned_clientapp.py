"""What a site runs as `flwr-clientapp`: always its own relay, never the app that the server ships.

Flower 1.41 unpacks the bundle that came with a run and imports its ClientApp, under the uid of the
SuperNode, where it could read the site's keys. Here the bundle is neither unpacked nor imported.
"""

from collections.abc import Callable

from flwr.clientapp import ClientApp
from flwr.supernode.cli import flwr_clientapp
from flwr.supernode.runtime import run_clientapp as runtime

from hortus.client.flower.relay import app


def _nothing(*_: object, **__: object) -> None:
    """Stands for unpacking a bundle, and for finding its folder."""


def _load_relay(*_: object, **__: object) -> Callable[[str, str, str], ClientApp]:
    return lambda _fab_id, _fab_version, _digest: app


def main() -> None:
    """Runs Flower's `flwr-clientapp` with the bundle left out.

    Raises:
        RuntimeError: This Flower has no such functions: it is not the version that was read.
    """
    for name, own in (
        ("install_from_fab", _nothing),
        ("get_project_dir", _nothing),
        ("get_load_client_app_fn", _load_relay),
    ):
        if not hasattr(runtime, name):
            raise RuntimeError(f"flwr.supernode.runtime.run_clientapp has no {name}")
        setattr(runtime, name, own)
    flwr_clientapp()


if __name__ == "__main__":
    main()
