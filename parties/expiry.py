"""When certificates expire, and how loudly to say so ahead."""

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path

from hortus.parties.folders import ServerFiles, SiteFiles
from hortus.protocol.certificates import is_certificate_of, load_certificate
from hortus.protocol.identity import Roster
from hortus.runtime.errors import UsageError

_NOTICE, _SOON, _URGENT = (timedelta(days=days) for days in (60, 30, 7))


class Urgency(StrEnum):
    """How near the end of a certificate is."""

    FAR = "far"
    NOTICE = "within 60 days"
    SOON = "within 30 days"
    URGENT = "within 7 days"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Expiry:
    """A certificate's end.

    Attributes:
        whose: Whom it is for.
        path: Its file.
        expires: Its last moment.
        remedy: The command that renews it.
    """

    whose: str
    path: Path
    expires: datetime
    remedy: str

    def urgency(self, now: datetime) -> Urgency:
        """Returns how near its end is."""
        left = self.expires - now
        limits = (
            (timedelta(), Urgency.EXPIRED),
            (_URGENT, Urgency.URGENT),
            (_SOON, Urgency.SOON),
            (_NOTICE, Urgency.NOTICE),
        )
        return next((urgency for limit, urgency in limits if left <= limit), Urgency.FAR)

    def warning(self, now: datetime) -> str | None:
        """Returns one sentence for an operator; None while its end is more than 60 days away."""
        match self.urgency(now):
            case Urgency.FAR:
                return None
            case Urgency.EXPIRED:
                return f"the TLS certificate of {self.whose} expired on {self.expires:%Y-%m-%d}"
            case _:
                days = (self.expires - now).days
                return (
                    f"the TLS certificate of {self.whose} expires in {days} days, on "
                    f"{self.expires:%Y-%m-%d}: {self.remedy}"
                )


def expiries(files: SiteFiles | ServerFiles) -> list[Expiry]:
    """Returns the ends of all certificates that a party has, its own first.

    A site whose certificate has not been issued yet has none.
    """
    own = "this site" if isinstance(files, SiteFiles) else "the server"
    rotate = f"hortus rotate tls {files.directory}"
    told = [(own, files.tls.certificate, rotate)]
    authority = "the server's operator runs hortus rotate authority"
    told += [("the consortium's authority", files.tls.authority, authority)]
    if isinstance(files, ServerFiles):
        told += [
            (site, files.issued(site), "its operator runs hortus rotate tls, and you add its card")
            for site in Roster.load(files.roster).sites
        ]
    return [
        Expiry(whose, path, load_certificate(path.read_bytes(), str(path)).not_valid_after_utc, how)
        for whose, path, how in told
        if path.exists()
    ]


def certificate_lines(files: SiteFiles | ServerFiles, now: datetime) -> list[dict[str, str]]:
    """Returns all certificates' ends as JSON has them."""
    return [
        {
            "whose": expiry.whose,
            "expires": expiry.expires.isoformat(),
            "urgency": expiry.urgency(now).value,
            "remedy": expiry.remedy,
        }
        for expiry in expiries(files)
    ]


def warn_of_expiry(files: SiteFiles | ServerFiles, now: datetime, logger: logging.Logger) -> None:
    """Warns of each certificate that ends soon, at a party's start.

    Raises:
        UsageError: The party's own has expired, or was not issued yet; the error names the command that helps.
    """
    found = expiries(files)
    if not files.tls.certificate.exists():
        raise UsageError(
            "the server has not issued this site's TLS certificate yet",
            where=str(files.tls.certificate),
            remedy="It adds this site's card; then: hortus roster add SITE_DIR server.card.yaml",
        )
    if not is_certificate_of(files.tls.certificate.read_bytes(), files.tls.key):
        raise UsageError(
            "the TLS certificate does not belong to the key beside it: a renewal was interrupted",
            where=str(files.tls.certificate),
            remedy="Repeat it: hortus roster add (at a site), hortus rotate tls (at the server).",
        )
    own = found[0]
    if own.urgency(now) is Urgency.EXPIRED:
        raise UsageError(str(own.warning(now)), where=str(own.path), remedy=own.remedy)
    _warn(found, now, logger)


class DailyWarning:
    """Warns once a day of each certificate that ends soon: an agent runs for months.

    Args:
        files: The party's folder.
        logger: Where to.
        now: The time of its start, which has warned already, with its zone.
    """

    def __init__(
        self, files: SiteFiles | ServerFiles, logger: logging.Logger, now: datetime
    ) -> None:
        self._files = files
        self._logger = logger
        self._day = now.date()

    def look(self, now: datetime) -> None:
        """Warns, if it has not done so on this day."""
        if now.date() == self._day:
            return
        self._day = now.date()
        try:
            _warn(expiries(self._files), now, self._logger)
        except UsageError as error:
            self._logger.warning("%s", error)


def _warn(found: list[Expiry], now: datetime, logger: logging.Logger) -> None:
    for warning in filter(None, (expiry.warning(now) for expiry in found)):
        logger.warning("%s", warning)
