"""A synthetic corpus of our own: what patients and customers write to hospitals and banks.

Sentences come from a small grammar: an opener, a core for the class, a shared circumstance, a
closer. Circumstances and some cores fit several classes, words are mistyped, and a few training
labels are wrong, so that the task can be learnt but not by heart.
"""

import csv
import io
import random
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from hortus.runtime.files import write_atomic

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
    "day": ("tomorrow", "on Friday", "next week", "on the 14th", "this afternoon", "on Tuesday"),
    "sum": ("12.50", "80", "149", "300", "1,200", "45.99"),
    "place": (
        "the station",
        "a shop abroad",
        "the market",
        "a taxi",
        "the gym",
        "a petrol station",
    ),
    "who": ("my father", "my daughter", "my mother", "my wife", "my son", "a relative"),
    "body": ("knee", "back", "chest", "left ear", "stomach", "shoulder", "throat"),
    "drug": (
        "the blood pressure tablets",
        "the inhaler",
        "the insulin",
        "the antibiotics",
        "the thyroid pills",
    ),
    "doctor": ("the cardiologist", "Dr Novak", "the clinic", "the consultant", "the nurse"),
    "test": ("blood test", "scan", "biopsy", "X-ray", "allergy test", "heart test"),
    "use": ("a car", "a flat", "my studies", "a new kitchen", "my small firm"),
}

_CORES: Mapping[str, Sequence[str]] = {
    "card_lost": (
        "nobody has handed in my card at {place}, freeze it please",
        "the machine at {place} kept my card {time}",
        "{who} has lost the debit card, what do we do first",
        "my card is gone, I must have left it at {place}",
        "I cannot find my card since {time}",
        "somebody took my purse at {place} and the card was in it",
        "please block it, I think it was stolen at {place}",
        "is there a way to get a replacement, mine went missing {time}",
    ),
    "wrong_charge": (
        "I do not know the shop that took {sum} {time}",
        "the receipt of {place} says less than the {sum} you booked",
        "please reverse {sum}, I returned the goods {time}",
        "there is a payment of {sum} that I never made",
        "I was charged {sum} twice at {place}",
        "a booking of {sum} from {time} is not mine",
        "{place} took {sum} although I cancelled",
        "why do I see {sum} on the statement, I bought nothing",
    ),
    "transfer_delay": (
        "where did the transfer to {who} get stuck",
        "{who} still waits for {sum} from my account",
        "I moved {sum} to my savings {time} and it shows nowhere",
        "the {sum} I sent {time} has not arrived",
        "my salary should have come {time} and is still missing",
        "how long does it take until {who} gets the money I sent",
        "the payment is pending since {time}",
        "the receiver says nothing has come, I sent {sum} {time}",
    ),
    "account_access": (
        "your site throws me out as soon as I type my number",
        "{who} is locked out after three wrong tries",
        "how do I reset the login, the mail never comes",
        "I cannot log in since {time}",
        "the app does not accept my code any more",
        "I forgot the password and the link does not work",
        "it says that my access is blocked",
        "I changed my phone and now I get no confirmation code",
    ),
    "loan_question": (
        "would you lend {who} money for {use}",
        "can I skip one instalment for {use}",
        "is a fixed or a variable rate better for {use}",
        "how much could I borrow for {use}",
        "what rate would I pay for {sum} a month over five years",
        "can I pay back early what I took for {use}",
        "which papers do you need if I want to finance {use}",
        "I asked for credit {time}, has it been decided",
    ),
    "fee_complaint": (
        "nobody else asks {sum} for a simple transfer",
        "drop the yearly fee of {sum} or I leave",
        "what is this service charge of {sum} good for",
        "why do you take {sum} for keeping the account",
        "I was told it is free and now there is a fee of {sum}",
        "{sum} for a withdrawal at {place} is too much, take it back",
        "the monthly price went up without a word",
        "I want the charges of {time} refunded, nobody warned me",
    ),
    "appointment_change": (
        "{day} does not suit {who}, is there a later slot",
        "I am stuck at work, can {doctor} see me {day} instead",
        "which times are free with {doctor}, ours no longer works",
        "I cannot come {day}, may we find another day with {doctor}",
        "could {who} be seen earlier by {doctor}",
        "please cancel the visit, {who} has to travel",
        "is it possible to move it to the afternoon",
        "I missed the date {time} and need a new one",
    ),
    "test_results": (
        "did {doctor} look at my {test} already",
        "I cannot read the {test} report, what does it say",
        "when will the lab be done with the {test} of {who}",
        "are the {test} results of {who} there yet",
        "what does the value in the {test} report mean",
        "I had the {test} {time} and have heard nothing",
        "can {doctor} explain the finding about the {body}",
        "the {test} letter says abnormal, should I worry",
    ),
    "prescription_refill": (
        "{who} has {drug} only until {day}",
        "please renew {drug} as in the last months",
        "may I collect the repeat for {drug} {day}",
        "I am running out of {drug}",
        "could {doctor} write {drug} again for {who}",
        "the pharmacy says there is no valid prescription for {drug}",
        "I need {drug} before the holidays",
        "can I get a double pack of {drug} this time",
    ),
    "visit_bill": (
        "{doctor} wants {sum} for ten minutes, please explain",
        "to which account do I pay the {sum} for the {test}",
        "my insurer refuses your invoice for the {test}",
        "the invoice for the visit {time} says {sum}, is that right",
        "does my insurance pay the {sum} for the {test}",
        "I have paid {sum} already and got a reminder",
        "can I pay what I owe {doctor} in parts",
        "why is the {test} listed twice on what you sent",
    ),
    "symptom_advice": (
        "should {who} come in with such a {body}",
        "my {body} got worse {time}, is rest enough",
        "may I go to work with a sore {body}",
        "since {time} my {body} hurts when I move",
        "{who} has a fever and a sore {body}, what shall we do",
        "is it normal that the {body} is swollen after the {test}",
        "I feel dizzy since I take {drug}",
        "the pain in the {body} has come back, is it urgent",
    ),
    "referral": (
        "which department is right for my {body}",
        "I want a second opinion on the {body}, whom do I ask",
        "{who} needs to be passed on to an expert for the {body}",
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
    "I write for {who}: ",
    "I am 74 and not good with apps. ",
    "Sorry for my English. ",
    "As a student I ask: ",
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
            "account_access": 1,
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
            "fee_complaint": 1,
        },
    ),
    "hill-practice": (
        350,
        {
            "prescription_refill": 3,
            "referral": 4,
            "test_results": 2,
            "visit_bill": 3,
            "symptom_advice": 2,
            "appointment_change": 1,
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
            "loan_question": 1,
        },
    ),
    "garden-credit": (
        400,
        {
            "loan_question": 5,
            "fee_complaint": 4,
            "transfer_delay": 2,
            "account_access": 2,
            "wrong_charge": 1,
            "visit_bill": 1,
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
            "transfer_delay": 1,
            "visit_bill": 1,
        },
    ),
}


def labels() -> tuple[str, ...]:
    """All classes, sorted."""
    return tuple(sorted(_CORES))


def generate(
    weights: Mapping[str, int],
    count: int,
    generator: random.Random,
    *,
    clean: bool,
    taken: Collection[str] = (),
) -> list[Row]:
    """Draws distinct labelled messages.

    Args:
        weights: Relative frequency of each class.
        count: How many messages.
        generator: Where all choices come from.
        clean: Whether every label is right.
        taken: Texts that must not come.
    """
    rows: dict[str, str] = {}
    while len(rows) < count:
        (label,) = generator.choices(list(weights), list(weights.values()))
        text = _message(label, generator)
        if text in rows or text in taken:
            continue
        wrong = not clean and generator.random() < _WRONG_LABEL
        others = [other for other in weights if other != label]
        rows[text] = generator.choice(others) if wrong else label
    return list(rows.items())


def write_demo(directory: Path, seed: int) -> tuple[str, ...]:
    """Writes SITE.csv for each of six sites, a balanced test.csv, and labels.txt.

    Returns:
        The sites' names, sorted.
    """
    generator = random.Random(seed)  # noqa: S311 - public, made-up data
    test: dict[str, str] = {}
    for label in labels():
        test |= generate({label: 1}, _TEST_PER_CLASS, generator, clean=True, taken=test)
    for site, (count, weights) in _SITES.items():
        rows = generate(weights, count, generator, clean=False, taken=test)
        write_atomic(directory / f"{site}.csv", _csv(rows))
    write_atomic(directory / "test.csv", _csv(list(test.items())))
    write_atomic(directory / "labels.txt", "".join(f"{label}\n" for label in labels()).encode())
    return demo_sites()


def demo_sites() -> tuple[str, ...]:
    """Returns the names of the six sites, sorted."""
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
