"""How an answer is compared with the right one: SQuAD's rules (Rajpurkar et al. 2016, 2018)."""

import re
import string
from collections import Counter

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def words(text: str) -> list[str]:
    """Returns the words of an answer that count: small letters, without punctuation and English articles."""
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def exact_match(wanted: str, found: str) -> float:
    """Returns 1 where two answers have the same words in the same order, else 0."""
    return float(words(wanted) == words(found))


def f1(wanted: str, found: str) -> float:
    """Returns the harmonic mean of precision and recall of an answer's words, as often as they occur.

    Where either has no words, it is 1 if neither has.
    """
    right, given = words(wanted), words(found)
    if not right or not given:
        return float(right == given)
    same = sum((Counter(right) & Counter(given)).values())
    return 2 * same / (len(right) + len(given))
