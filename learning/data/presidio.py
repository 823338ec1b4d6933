"""Microsoft Presidio's recognisers of patterns and checksums: no model, and nothing fetched."""

from __future__ import annotations

import logging
import re
from functools import cached_property, lru_cache
from typing import Literal, Self

import presidio_analyzer.predefined_recognizers as predefined
from presidio_analyzer import LocalRecognizer, Pattern, PatternRecognizer
from pydantic import Field, model_validator
from tldextract import TLDExtract

from hortus.learning.data.identifiers import Finder, Identifier

_USUAL = (
    "EMAIL_ADDRESS", "PHONE_NUMBER", "URL", "IP_ADDRESS", "MAC_ADDRESS", "CREDIT_CARD", "IBAN_CODE", "CRYPTO",
    "US_SSN", "US_ITIN", "UK_NHS", "UK_NINO", "DE_TAX_ID", "DE_SOCIAL_SECURITY", "ES_NIF", "ES_NIE", "IT_FISCAL_CODE",
    "PL_PESEL", "FI_PERSONAL_IDENTITY_CODE", "SE_PERSONNUMMER", "AU_MEDICARE", "IN_AADHAAR", "KR_RRN", "SG_NRIC_FIN",
    "TH_TNIN", "TR_NATIONAL_ID",
)  # fmt: skip
_PHONE, _URL = "PHONE_NUMBER", "URL"
_WORD = re.compile(r"[\w.-]*\w")
_FEWEST_DIGITS = 7  # of a telephone number: looking for one takes longer than for all else
_LONGEST = (
    2**14
)  # characters looked at together: the time for some patterns grows faster than their text
_OVERLAP = 256
_OWN_SCORE = 1.0

# Some of its messages would quote what they are about.
logging.getLogger("presidio-analyzer").setLevel(logging.CRITICAL)


class Presidio(Finder):
    """`presidio`: the recognisers of `presidio-analyzer` that need no language model."""

    kind: Literal["presidio"] = "presidio"
    entities: tuple[str, ...] = Field(
        _USUAL, min_length=1, description="What to look for, by Presidio's names."
    )
    patterns: dict[str, str] = Field(
        default_factory=dict,
        description="Regular expressions of one's own, by name: such as `{MRN: 'MRN ?[0-9]{7}'}`.",
    )
    regions: tuple[str, ...] = Field(
        ("US", "GB", "DE", "FR", "ES", "IT", "PL", "IN", "BR", "AU"),
        description="Countries whose telephone numbers are found without a country code.",
    )
    least_score: float = Field(
        0.4,
        ge=0,
        le=1,
        description="A pattern alone scores less than one with a checksum that holds: lower finds more, and errs more.",
    )

    @model_validator(mode="after")
    def _known(self) -> Self:
        if unknown := sorted(set(self.entities) - {_PHONE, *_classes()}):
            raise ValueError(
                f"Presidio knows no {', '.join(unknown)} without a model; it knows {', '.join(sorted(_classes()))}"
            )
        for name, pattern in self.patterns.items():
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"patterns: {name}: {error}") from error
        return self

    @property
    def blind_to(self) -> str:
        """See `Finder`."""
        return (
            "names of people, addresses and dates; numbers whose form is a site's own unless `patterns` "
            "describes it; and whatever else a reader would recognise somebody by"
        )

    def find(self, text: str) -> list[Identifier]:
        """See `Finder`."""
        found = set()
        for start in range(0, max(1, len(text)), _LONGEST):
            first = max(0, start - _OVERLAP)
            part = text[first : start + _LONGEST]
            has_digits = sum(map(str.isdigit, part)) >= _FEWEST_DIGITS
            for recognizer in self._recognizers:
                if isinstance(recognizer, predefined.PhoneRecognizer) and not has_digits:
                    continue
                for one in recognizer.analyze(part, recognizer.supported_entities, None):
                    end = _whole(part, one.start, one.end) if one.entity_type == _URL else one.end
                    if end and one.score >= self.least_score:
                        found.add(Identifier(one.entity_type, first + one.start, first + end))
        return sorted(found, key=lambda one: (one.start, one.end))

    @cached_property
    def _recognizers(self) -> tuple[LocalRecognizer, ...]:
        own = [
            PatternRecognizer(name, name=name, patterns=[Pattern(name, pattern, _OWN_SCORE)])
            for name, pattern in self.patterns.items()
        ]
        known = [_classes()[name]() for name in self.entities if name != _PHONE]
        phone = predefined.PhoneRecognizer(supported_regions=self.regions)
        return (*own, *known, *([phone] if _PHONE in self.entities else []))


def _whole(text: str, start: int, end: int) -> int:
    """Returns where an address of the web ends; 0 where its domain is the beginning of another word."""
    rest = _WORD.match(text, end)
    if not rest or not text[end : end + 1].isalnum():
        return end
    return rest.end() if _suffixes()(text[start : rest.end()]).fqdn else 0


@lru_cache(maxsize=1)
def _suffixes() -> TLDExtract:
    """Returns the list of domains that its package holds: by itself it would fetch the newest one."""
    return TLDExtract(cache_dir=None, suffix_list_urls=())


class _Email(predefined.EmailRecognizer):  # type: ignore[misc]
    def validate_result(self, pattern_text: str) -> bool:
        """Whether the domain may exist."""
        return bool(_suffixes()(pattern_text).fqdn)


class _Url(predefined.UrlRecognizer):  # type: ignore[misc]
    def validate_result(self, pattern_text: str) -> bool | None:
        """Whether the domain may exist."""
        return None if _suffixes()(pattern_text).fqdn else False


@lru_cache(maxsize=1)
def _classes() -> dict[str, type[PatternRecognizer]]:
    """Returns the recognisers of patterns, by what each finds."""
    found = {}
    for name in predefined.__all__:
        one = getattr(predefined, name)
        if isinstance(one, type) and issubclass(one, PatternRecognizer):
            found[one().supported_entities[0]] = one
    return found | {"EMAIL_ADDRESS": _Email, "URL": _Url}
