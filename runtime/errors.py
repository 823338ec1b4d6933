"""Every error that a person sees: what is wrong, where, and what to do about it."""

_LINE_CHARACTERS = 500


def printable(text: str) -> str:
    """Removes from a text whatever a terminal or a log would obey.

    Line ends and other white space become a space; escape sequences, marks that change the direction of
    writing, invisible characters and halves of a surrogate pair become "�".
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else " " if c.isspace() else "�" for c in text)


def in_one_line(text: str, most: int = _LINE_CHARACTERS) -> str:
    """Returns `printable` text of this many characters at most, for the wire, a ledger or a log."""
    return printable(text if len(text) <= most else text[: most - 1] + "…")


class HortusError(Exception):
    """A failure with an explanation that fits on one screen.

    Args:
        problem: One sentence that names the offending value.
        where: The file, line, field, site or step concerned.
        remedy: What the reader can do about it.
    """

    exit_code = 1

    def __init__(
        self, problem: str, *, where: str | None = None, remedy: str | None = None
    ) -> None:
        super().__init__(problem)
        self.problem = problem
        self.where = where
        self.remedy = remedy

    def __str__(self) -> str:
        parts = [f"{self.where}: {self.problem}" if self.where else self.problem]
        if self.remedy:
            parts.append(self.remedy)
        return " — ".join(parts)


class UsageError(HortusError):
    """The input (plan, data, path, option) cannot be used as it is."""

    exit_code = 2


class DataError(UsageError):
    """A site's records do not fit a plan. It may quote them: for its operator's terminal alone."""


class Refused(HortusError):  # noqa: N818 - an answer, not a fault
    """A site's own policy or budget forbids the request."""

    exit_code = 3


class ProtocolError(HortusError):
    """Another party sent something that the protocol does not allow."""


class ConnectionLost(ProtocolError):  # noqa: N818
    """A connection broke; the transfer may resume over a new one."""


class CohortTooSmall(HortusError):  # noqa: N818
    """Fewer sites than the plan's minimum can take part."""

    exit_code = 3
