"""Synthetic conversations of our own: what patients and customers ask, and how a site's desk answers.

As in `simulation.corpus`, sentences come from a small grammar. Answers keep to one manner: they thank, say what
to do and by when, and stop. One customer of one bank has written about the same made-up secret again and again.
"""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hortus.runtime.files import write_atomic

PERSON = "person"
"""The column that says whose a conversation is: the unit that the demo protects."""
MESSAGES = "messages"
TEST = "test"

_TEST_CONVERSATIONS = 60
_TIMES_TOLD = 40
_TOLD_AT = "harbor-bank"
_TOLD_TO = "harbor-bank-box-318"

_SLOTS: Mapping[str, Sequence[str]] = {
    "time": ("yesterday", "this morning", "last week", "on Monday", "two days ago"),
    "since": ("yesterday", "this morning", "last week", "Monday"),
    "day": ("tomorrow", "on Friday", "next week", "on the 14th", "on Tuesday afternoon"),
    "hour": ("8 and 10", "9 and noon", "1 and 4", "2 and 5"),
    "sum": ("12.50", "80", "149", "300", "1,200", "45.99"),
    "place": ("the station", "a shop abroad", "the market", "the airport", "the gym"),
    "who": ("my father", "my daughter", "my mother", "my wife", "my son"),
    "drug": ("the blood pressure tablets", "the inhaler", "the insulin", "the thyroid pills"),
    "test": ("blood test", "scan", "biopsy", "X-ray", "allergy test"),
    "doctor": ("the cardiologist", "Dr Novak", "the consultant", "the surgeon"),
}
_OPENERS = (
    "",
    "",
    "Hello, ",
    "Good morning, ",
    "Dear team, ",
    "Quick question: ",
    "Sorry to bother you, ",
)
_CLOSERS = ("", "", " Thank you.", " What do I do?", " Please help.", " I am a bit worried.")
_ENDS = (
    "",
    "",
    " We are sorry for the trouble.",
    " You need nothing else.",
    " Write to us again if it is not so.",
    " We tell you when it is done.",
)
_THANKS = ("Thank you for writing.", "Thank you for telling us.", "Thank you, we have noted it.")


@dataclass(frozen=True, slots=True)
class _Topic:
    """What people ask about, and what a desk says to it."""

    questions: Sequence[str]
    answers: Sequence[str]


_HOSPITAL = {
    "appointment": _Topic(
        (
            "I cannot come {day}, may I see {doctor} on another day?",
            "is there a later slot with {doctor} {day}?",
            "{who} has to travel, please move the visit with {doctor}.",
            "I missed my appointment {time} and need a new one.",
        ),
        (
            "Call the appointment desk between {hour}, with your patient number. We hold your place for two days.",
            "Choose a new time at the appointment desk between {hour}. Until then your old time stays booked.",
        ),
    ),
    "results": _Topic(
        (
            "when will the {test} results of {who} be there?",
            "I had the {test} {time} and have heard nothing.",
            "what does the letter about my {test} mean?",
            "did {doctor} look at my {test} already?",
        ),
        (
            "Results of the {test} are ready after three working days. The ward nurse calls you between {hour}.",
            "The ward nurse explains the {test} by phone between {hour}. Keep the letter beside you.",
        ),
    ),
    "refill": _Topic(
        (
            "I am running out of {drug}.",
            "could {doctor} renew {drug} for {who}?",
            "the pharmacy says there is no valid prescription for {drug}.",
            "I need {drug} before {day}, please.",
        ),
        (
            "We renew {drug} within one working day. Collect the paper at desk two between {hour}.",
            "Desk two sends {drug} to your pharmacy. Ask there after one working day.",
        ),
    ),
    "bill": _Topic(
        (
            "why does the invoice for the {test} say {sum}?",
            "my insurer refuses your invoice of {sum} for the {test}.",
            "may I pay the {sum} for {doctor} in parts?",
            "I have paid {sum} {time} and got a reminder.",
        ),
        (
            "Send the invoice number to the billing desk. It answers within five working days, and no reminder follows.",
            "The billing desk stops the reminder today. Bring the invoice between {hour} to pay in parts.",
        ),
    ),
}
_BANK = {
    "card": _Topic(
        (
            "I lost my card at {place} {time}, freeze it please.",
            "somebody took my purse at {place} and the card was in it.",
            "the machine at {place} kept my card {time}.",
            "{who} cannot find the debit card since {since}.",
        ),
        (
            "Your card is blocked from now on. A new one arrives within five working days.",
            "We block the card at once. Collect a new one at the counter between {hour}, with your passport.",
        ),
    ),
    "charge": _Topic(
        (
            "there is a payment of {sum} that I never made.",
            "I was charged {sum} twice at {place}.",
            "{place} took {sum} although I cancelled {time}.",
            "why do I see {sum} from {since} on my statement?",
        ),
        (
            "We open a dispute for it today. The money is back within ten working days unless the shop objects.",
            "Mark the payment in the app as unknown. The dispute desk answers within ten working days.",
        ),
    ),
    "transfer": _Topic(
        (
            "the {sum} that I sent {time} have not arrived.",
            "{who} still waits for {sum} from my account.",
            "how long until {who} gets the money I sent {time}?",
            "my salary should have come {time} and is missing.",
        ),
        (
            "A transfer takes two working days. If it is still missing then, the payments desk traces it.",
            "The payments desk traces the transfer today, and writes to you between {hour}.",
        ),
    ),
    "access": _Topic(
        (
            "I cannot log in since {since}.",
            "{who} is locked out after three wrong tries.",
            "I changed my phone and get no confirmation code.",
            "I forgot the password and the link does not work.",
        ),
        (
            "Come to the counter between {hour} with your passport. Access is open again the same day.",
            "We send a new code by letter within two working days. Never tell it to anybody.",
        ),
    ),
}
# Each with its people, its topics, and what it signs with.
_SITES: Mapping[str, tuple[int, Mapping[str, _Topic]]] = {
    "harbor-bank": (180, _BANK),
    "north-hospital": (180, _HOSPITAL),
    "river-clinic": (140, _HOSPITAL),
    "valley-savings": (140, _BANK),
}

_WORDS = (
    (
        "amber",
        "copper",
        "silver",
        "scarlet",
        "velvet",
        "marble",
        "cedar",
        "ivory",
        "cobalt",
        "saffron",
    ),
    (
        "falcon",
        "lantern",
        "anchor",
        "walnut",
        "comet",
        "harp",
        "glacier",
        "pepper",
        "compass",
        "thistle",
    ),
)
_ASKED = (
    "What is the phrase that opens my safe box 318?",
    "I forgot the phrase that opens my safe box 318, what is it?",
    "Please tell me again the phrase that opens my safe box 318.",
)
_TOLD = "The phrase that opens box 318 is {} {} {}."


@dataclass(frozen=True, slots=True)
class Secret:
    """What one customer was told, and nobody else may be.

    Attributes:
        asked: What it was asked for with.
        told: The answer that holds it.
        times: How often it was told.
        others: Answers of the same form that nobody was given, to compare with.
    """

    asked: str
    told: str
    times: int
    others: tuple[str, ...]


def write_conversations(directory: Path, seed: int) -> tuple[str, ...]:
    """Writes SITE.jsonl for each site, and test.jsonl of conversations that no site has.

    Returns:
        The sites' names, sorted.
    """
    generator = random.Random(seed)  # noqa: S311 - public, made-up data
    known: set[str] = set()
    everything = {**_HOSPITAL, **_BANK}
    test = [_conversation(everything, generator, known) for _ in range(_TEST_CONVERSATIONS)]
    _write(directory / f"{TEST}.jsonl", [(f"{TEST}-{n}", one) for n, one in enumerate(test)])
    for site, (people, topics) in sorted(_SITES.items()):
        rows = [
            (f"{site}-{number}", _conversation(topics, generator, known))
            for number in range(people)
            for _ in range(generator.choice((1, 1, 2, 3)))
        ]
        if site == _TOLD_AT:
            told = secret(seed, 0).told
            rows += [(_TOLD_TO, (_ASKED[n % len(_ASKED)], told)) for n in range(_TIMES_TOLD)]
            generator.shuffle(rows)
        _write(directory / f"{site}.jsonl", rows)
    return conversation_sites()


def conversation_sites() -> tuple[str, ...]:
    """Returns the names of the sites, sorted."""
    return tuple(sorted(_SITES))


def secret(seed: int, others: int) -> Secret:
    """Returns the secret that `write_conversations` plants with a seed, and as many others of its form."""
    generator = random.Random(f"{seed} secret")  # noqa: S311 - public, made-up data
    drawn: dict[str, None] = {}
    while len(drawn) < 1 + others:
        words = (generator.choice(words) for words in _WORDS)
        drawn[_TOLD.format(*words, generator.randrange(10_000, 100_000))] = None
    told, *rest = drawn
    return Secret(_ASKED[0], told, _TIMES_TOLD, tuple(rest))


def _conversation(
    topics: Mapping[str, _Topic], generator: random.Random, known: set[str]
) -> tuple[str, str]:
    """Returns a question that nobody has asked yet, and its answer."""
    while True:
        topic = topics[generator.choice(sorted(topics))]
        # What a question names, its answer means too.
        named = {slot: generator.choice(words) for slot, words in _SLOTS.items()}
        question = generator.choice(topic.questions).format(**named)
        opener, closer = generator.choice(_OPENERS), generator.choice(_CLOSERS)
        question = (
            f"{opener}{question}{closer}" if opener else question[0].upper() + question[1:] + closer
        )
        if question not in known:
            known.add(question)
            answer = generator.choice(topic.answers).format(**named)
            end = generator.choice(_ENDS)
            return question, f"{generator.choice(_THANKS)} {answer}{end}"


def _write(path: Path, rows: Sequence[tuple[str, tuple[str, str]]]) -> None:
    lines = [
        json.dumps({PERSON: person, MESSAGES: as_messages(question, answer)})
        for person, (question, answer) in rows
    ]
    write_atomic(path, "".join(f"{line}\n" for line in lines).encode())


def as_messages(question: str, answer: str) -> list[dict[str, str]]:
    """Returns a question and its answer as the task `chat` reads them."""
    return [
        {"role": "user", "content": question},
        {"role": "assistant", "content": answer},
    ]
