"""What of an error may leave a site, and what of it a log may keep: records may have caused it."""

import traceback
from pathlib import Path

from hortus.client.preparation import Preparing
from hortus.runtime.errors import DataError, HortusError, Refused, in_one_line
from hortus.runtime.surroundings import out_of_memory

# All that another party learns about a failure, whatever it is and whatever caused it.
FAILED = "it failed; its own log says why"


class Disclosure:
    """What one site reveals of its errors.

    Args:
        observed: Whether another party sees what this site does.
        hides: Whether the reason stays hidden from other parties. Only a simulation reveals it.
    """

    def __init__(self, *, observed: bool, hides: bool) -> None:
        self.hides = hides
        self._observed = observed

    def seen(self, error: Exception) -> Exception:
        """Returns an error as a log may have it; raises a defect again in a rehearsal."""
        known = out_of_memory(error) or error
        if not isinstance(known, HortusError) and not self._observed:
            raise known
        return known

    def public(self, error: BaseException) -> str:
        """What the server may read: a policy's answer, but no word about a failure, which records may cause."""
        if isinstance(error, Refused | Preparing) or not self.hides:
            return in_one_line(str(error) or type(error).__name__)
        return FAILED


def loggable(error: Exception) -> str:
    """Returns what a log may keep of an error: nothing of one that may quote a record."""
    if isinstance(error, DataError):
        return "the records do not fit the plan; `hortus approve SITE_DIR PLAN.yaml` says where"
    if isinstance(error, HortusError):
        return str(error)
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"a defect: {type(error).__name__} in {Path(frame.filename).name}, line {frame.lineno}"
