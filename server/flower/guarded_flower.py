"""Flower's own programs on the server's machine, which show the SuperLink that they belong to it.

In Flower 1.41 whoever reaches the Control and Runtime APIs may use them. Here they ask for a secret of
this run, which `hortus server` gives to the programs that it starts, and to nobody else, in their
environment. Which machine a call comes from proves nothing: a TCP proxy or `ssh -R` makes a stranger a
caller from loopback.
"""

import os
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Any

from flwr.supercore.protobuf.client import ProtobufClient

SECRET = "HORTUS_SUPERLINK_SECRET"  # noqa: S105 - a variable's name
THEN = "--hortus-then"
HEADER = "x-hortus-superlink-secret"
PROGRAMS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "flwr": ("flwr.cli.app", "app"),
        "flower-superexec": ("flwr.supercore.cli", "flower_superexec"),
        "flwr-serverapp": ("flwr.superlink.cli", "flwr_serverapp"),
    }
)


def show_secret(secret: str) -> None:
    """Lets every client of Flower's HTTP interfaces in this process show the secret.

    Raises:
        RuntimeError: Flower's client is not the one that was read: another version.
    """
    plain = ProtobufClient.__init__

    def init(self: ProtobufClient, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - Flower's own
        plain(self, *arguments, **options)
        if not hasattr(self, "_client"):
            raise RuntimeError("flwr.supercore.protobuf.client.ProtobufClient has no _client")
        self._client.headers[HEADER] = secret

    setattr(ProtobufClient, "__init__", init)  # noqa: B010 - mypy forbids the assignment


def main() -> None:
    """Runs the Flower program that the first argument names, with the other arguments.

    Where `THEN` stands among them, the program runs again with those that follow, up to the first failure.
    """
    name, *rest = sys.argv[1:]
    show_secret(os.environ[SECRET])
    module, function = PROGRAMS[name]
    program = getattr(import_module(module), function)
    while THEN in rest:
        end = rest.index(THEN)
        sys.argv, rest = [name, *rest[:end]], rest[end + 1 :]
        _run_on(program)
    sys.argv = [name, *rest]
    program()


def _run_on(program: Callable[[], object]) -> None:
    """Runs a program that ends its process when it is done, and does not let it."""
    try:
        program()
    except SystemExit as ended:
        if ended.code:
            raise


if __name__ == "__main__":
    main()
