"""A synthetic corpus of our own: what patients and customers write to hospitals and banks.

Sentences come from a small grammar: an opener, a core for the class, a shared circumstance, a
closer. Circumstances and some cores fit several classes, words are mistyped, and a few training
labels are wrong, so that the task can be learnt but not by heart.
"""

import csv
import io
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from hortus.protocol.files import write_atomic

Row = tuple[str, str]

_TYPO = 0.25
_WRONG_LABEL = 0.03
_TEST_PER_CLASS = 60

_SLOTS: Mapping[str, Sequence[str]] = {
    "time": (
        "yesterday",
        "this morning",
        "last week",
        "on Monday",
        "two days ago",
        "over a week ago",
    ),
    "sum": ("12.50", "80", "149", "300", "1,200", "45.99"),
    "place": (
        "the station",
        "a shop abroad",
        "the market",
        "a taxi",
        "the gym",
        "a petrol station",
    ),
    "who": ("my father", "my daughter", "me", "my wife", "my son", "a relative"),
    "body": ("knee", "back", "chest", "left ear", "stomach", "shoulder", "throat"),
    "drug": ("blood pressure tablets", "inhaler", "insulin", "the antibiotics", "thyroid pills"),
    "doctor": ("the cardiologist", "Dr Novak", "the clinic", "the consultant", "the nurse"),
    "test": ("blood", "scan", "biopsy", "X-ray", "allergy", "heart monitor"),
    "use": ("a car", "a flat", "my studies", "a new kitchen", "my small firm"),
}

_CORES: Mapping[str, Sequence[str]] = {
    "card_lost": (
        "my card is gone, I must have left it at {place}",
        "I cannot find my card since {time}",
        "somebody took my purse at {place} and the card was in it",
        "please block it, I think it was stolen at {place}",
        "is there a way to get a replacement, mine went missing {time}",
    ),
    "wrong_charge": (
        "there is a payment of {sum} that I never made",
        "I was charged {sum} twice at {place}",
        "a booking of {sum} from {time} is not mine",
        "{place} took {sum} although I cancelled",
        "why do I see {sum} on the statement, I bought nothing",
    ),
    "transfer_delay": (
        "the {sum} I sent {time} has not arrived",
        "my salary should have come {time} and is still missing",
        "how long does it take until {who} gets the money I sent",
        "the payment is pending since {time}",
        "the receiver says nothing has come, I sent {sum} {time}",
    ),
    "account_access": (
        "I cannot log in since {time}",
        "the app does not accept my code any more",
        "I forgot the password and the link does not work",
        "it says that my access is blocked",
        "I changed my phone and now I get no confirmation code",
    ),
    "loan_question": (
        "how much could I borrow for {use}",
        "what rate would I pay for {sum} a month over five years",
        "can I pay back early what I took for {use}",
        "which papers do you need if I want to finance {use}",
        "I asked for credit {time}, has it been decided",
    ),
    "fee_complaint": (
        "why do you take {sum} for keeping the account",
        "I was told it is free and now there is a fee of {sum}",
        "{sum} for a withdrawal at {place} is too much, take it back",
        "the monthly price went up without a word",
        "I want the charges of {time} refunded, nobody warned me",
    ),
    "appointment_change": (
        "I cannot come {time}, may we find another day with {doctor}",
        "could {who} be seen earlier by {doctor}",
        "please cancel the visit, {who} has to travel",
        "is it possible to move it to the afternoon",
        "I missed the date {time} and need a new one",
    ),
    "test_results": (
        "are the {test} results of {who} there yet",
        "what does the value in the {test} report mean",
        "I had a {test} {time} and have heard nothing",
        "can {doctor} explain the finding about the {body}",
        "the {test} letter says abnormal, should I worry",
    ),
    "prescription_refill": (
        "I am running out of {drug}",
        "could {doctor} write {drug} again for {who}",
        "the pharmacy says there is no valid prescription for {drug}",
        "I need {drug} before the holidays",
        "can I get a double pack of {drug} this time",
    ),
    "visit_bill": (
        "the invoice for the visit {time} says {sum}, is that right",
        "does my insurance pay the {sum} for the {test}",
        "I have paid {sum} already and got a reminder",
        "can I pay what I owe {doctor} in parts",
        "why is the {test} listed twice on what you sent",
    ),
    "symptom_advice": (
        "since {time} my {body} hurts when I move",
        "{who} has a fever and a sore {body}, what shall we do",
        "is it normal that the {body} is swollen after the {test}",
        "I feel dizzy since I take {drug}",
        "the pain in the {body} has come back, is it urgent",
    ),
    "referral": (
        "I would like to be sent to a specialist for the {body}",
        "do I need a letter from {doctor} before the {test}",
        "who can you recommend for {who} with such a {body}",
        "{doctor} said that another hospital should look at it",
        "please send the papers about the {body} to the other clinic",
    ),
}

# Said by people of several classes: from the text alone, the label can only be guessed.
_SHARED: Mapping[str, Sequence[str]] = {
    "money asked": (
        "{sum} is asked of me and I do not see why",
        "I do not agree with the {sum} from {time}",
    ),
    "money gone": ("where are my {sum} from {time}", "something is wrong with {sum} at {place}"),
    "no entry": ("nothing works since {time}, I cannot pay or see anything",),
    "body": (
        "it is about the {body} of {who}, who should look at it",
        "my {body} worries me after the {test}",
    ),
    "clinic": (
        "I need something from {doctor} before {who} travels",
        "can {doctor} call {who} about it",
    ),
}
_SHARED_BY: Mapping[str, str] = {
    "wrong_charge": "money asked",
    "fee_complaint": "money asked",
    "visit_bill": "money asked",
    "loan_question": "money gone",
    "transfer_delay": "money gone",
    "card_lost": "no entry",
    "account_access": "no entry",
    "test_results": "body",
    "symptom_advice": "body",
    "referral": "body",
    "appointment_change": "clinic",
    "prescription_refill": "clinic",
}
_AMBIGUOUS = 0.16

_OPENERS = (
    "",
    "",
    "Hello, ",
    "Good morning, ",
    "Hi there, ",
    "Dear team, ",
    "Excuse me, ",
    "Quick question: ",
    "I am writing again: ",
    "It is about {who}. ",
    "I hope you can help. ",
)
_CIRCUMSTANCES = (
    "",
    "",
    "",
    " and I called {time} already",
    " and nobody answers the phone",
    ", I waited long enough",
    ", it was {time}",
    ", I have the letter here",
    ", I paid {sum} for this",
    " and I am quite worried",
    ", the app shows nothing",
    ", {who} told me to ask",
)
_CLOSERS = (
    "",
    "",
    ".",
    ". Thank you",
    ". Please call back",
    "? Thanks in advance",
    ". What now?",
    ". I need it soon",
    ". Can you look into it?",
    "!",
)

# Shares of each site's records by class; what is not named is absent there.
_SITES: Mapping[str, tuple[int, Mapping[str, int]]] = {
    "north-hospital": (
        480,
        {
            "appointment_change": 4,
            "test_results": 5,
            "symptom_advice": 4,
            "referral": 3,
            "visit_bill": 1,
        },
    ),
    "river-clinic": (
        380,
        {
            "appointment_change": 3,
            "prescription_refill": 5,
            "symptom_advice": 2,
            "visit_bill": 3,
            "account_access": 1,
        },
    ),
    "hill-practice": (
        340,
        {
            "prescription_refill": 3,
            "referral": 4,
            "test_results": 2,
            "visit_bill": 3,
            "wrong_charge": 1,
        },
    ),
    "harbor-bank": (
        500,
        {
            "card_lost": 4,
            "wrong_charge": 4,
            "transfer_delay": 4,
            "account_access": 2,
            "fee_complaint": 1,
        },
    ),
    "garden-credit": (
        400,
        {
            "loan_question": 5,
            "fee_complaint": 4,
            "transfer_delay": 2,
            "visit_bill": 1,
            "account_access": 2,
        },
    ),
    "valley-savings": (
        360,
        {
            "card_lost": 3,
            "loan_question": 3,
            "fee_complaint": 3,
            "account_access": 4,
            "wrong_charge": 2,
        },
    ),
}


def labels() -> tuple[str, ...]:
    """All classes, sorted."""
    return tuple(sorted(_CORES))


def generate(
    weights: Mapping[str, int], count: int, generator: random.Random, *, clean: bool
) -> list[Row]:
    """Draws labelled messages.

    Args:
        weights: Relative frequency of each class.
        count: How many messages.
        generator: Where all choices come from.
        clean: Whether every label is right.
    """
    classes, shares = list(weights), list(weights.values())
    rows = []
    for label in generator.choices(classes, shares, k=count):
        wrong = not clean and generator.random() < _WRONG_LABEL
        rows.append((_message(label, generator), generator.choice(classes) if wrong else label))
    return rows


def write_demo(directory: Path, seed: int) -> tuple[str, ...]:
    """Writes SITE.csv for each of six sites, a balanced test.csv, and labels.txt.

    Returns:
        The sites' names, sorted.
    """
    generator = random.Random(seed)  # noqa: S311 - public, made-up data
    test = [
        row
        for label in labels()
        for row in generate({label: 1}, _TEST_PER_CLASS, generator, clean=True)
    ]
    known = {text for text, _ in test}
    for site, (count, weights) in _SITES.items():
        drawn = generate(weights, 2 * count, generator, clean=False)
        rows = [row for row in drawn if row[0] not in known][:count]
        write_atomic(directory / f"{site}.csv", _csv(rows))
    write_atomic(directory / "test.csv", _csv(test))
    write_atomic(directory / "labels.txt", "".join(f"{label}\n" for label in labels()).encode())
    return tuple(sorted(_SITES))


def _message(label: str, generator: random.Random) -> str:
    ambiguous = generator.random() < _AMBIGUOUS
    pattern = (
        generator.choice(_OPENERS)
        + generator.choice(_SHARED[_SHARED_BY[label]] if ambiguous else _CORES[label])
        + generator.choice(_CIRCUMSTANCES)
        + generator.choice(_CLOSERS)
    )
    while "{" in pattern:
        slot = pattern[pattern.index("{") + 1 : pattern.index("}")]
        pattern = pattern.replace(f"{{{slot}}}", generator.choice(_SLOTS[slot]), 1)
    return _mistype(pattern, generator) if generator.random() < _TYPO else pattern


def _mistype(text: str, generator: random.Random) -> str:
    """Drops a letter or swaps two neighbours."""
    at = generator.randrange(1, len(text) - 1)
    if generator.random() < 0.5:
        return text[:at] + text[at + 1 :]
    return text[:at] + text[at + 1] + text[at] + text[at + 2 :]


def _csv(rows: Sequence[Row]) -> bytes:
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    writer.writerow(("text", "label"))
    writer.writerows(rows)
    return buffer.getvalue().encode()
