"""The worlds of the attack suite, whose sites fail here without malice."""

from attacks.conftest import _workbenches, contract, log_of, make_world, world

__all__ = ["_workbenches", "contract", "log_of", "make_world", "world"]
