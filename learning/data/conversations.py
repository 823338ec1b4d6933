"""Conversations in the forms that files have them in: messages, ShareGPT's turns, or a column for each side."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from hortus.learning.data.values import as_list, as_text, is_missing
from hortus.runtime.errors import UsageError

SYSTEM, USER, ASSISTANT = "system", "user", "assistant"
_FORMS = (("role", "content"), ("from", "value"))
_ROLES = {
    SYSTEM: SYSTEM,
    USER: USER,
    "human": USER,
    ASSISTANT: ASSISTANT,
    "gpt": ASSISTANT,
    "bot": ASSISTANT,
    "model": ASSISTANT,
}


class Message(NamedTuple):
    """What somebody says in a conversation."""

    role: str
    content: str


Conversation = tuple[Message, ...]


def as_conversation(value: Any, where: str) -> Conversation:  # noqa: ANN401 - whatever a file holds
    """Returns a list of messages, each `{role, content}` or, as ShareGPT has it, `{from, value}`.

    Raises:
        UsageError: It is none, or a message is no text of a known role. Nothing is quoted.
    """
    messages = as_list(value, where)
    return tuple(_message(one, f"{where}, message {n}") for n, one in enumerate(messages, 1))


def as_turns(
    row: Mapping[str, Any], system: str | None, user: Sequence[str], assistant: str, where: str
) -> Conversation:
    """Returns the conversation of a question and its answer, each in columns of its own.

    Args:
        row: By column.
        system: Column of the system's message, which may be empty; None: there is none.
        user: Columns of the question, joined by blank lines; those after the first may be empty.
        assistant: Column of the answer.
        where: The file and the line, for errors.

    Raises:
        UsageError: The question or the answer is missing, or is no text.
    """
    answer = Message(ASSISTANT, as_text(row[assistant], f"{where}, column {assistant!r}"))
    return (*as_question(row, system, user, where), answer)


def as_question(
    row: Mapping[str, Any], system: str | None, user: Sequence[str], where: str
) -> Conversation:
    """Returns the same without its answer."""
    first, *others = user
    parts = [as_text(row[first], f"{where}, column {first!r}")]
    parts += [
        as_text(row[one], f"{where}, column {one!r}") for one in others if not is_missing(row[one])
    ]
    asked = (Message(USER, "\n\n".join(parts)),)
    if system is None or is_missing(row[system]):
        return asked
    return (Message(SYSTEM, as_text(row[system], f"{where}, column {system!r}")), *asked)


def as_messages(conversation: Conversation) -> list[dict[str, str]]:
    """Returns a conversation as chat templates and files take it."""
    return [message._asdict() for message in conversation]


def _message(value: Any, where: str) -> Message:  # noqa: ANN401 - whatever a file holds
    # Tables have a column for every key that any message has.
    known = {k: v for k, v in value.items() if v is not None} if isinstance(value, Mapping) else {}
    form = next((keys for keys in _FORMS if known.keys() == set(keys)), None)
    if form is None:
        raise UsageError(
            "it is no message of a role and a content",
            where=where,
            remedy="Write {role, content}, or {from, value} as ShareGPT does.",
        )
    role, content = (known[key] for key in form)
    if not isinstance(role, str) or role not in _ROLES:
        raise UsageError(
            "its role is none of system, user (human) and assistant (gpt)",
            where=where,
            remedy="Correct it.",
        )
    return Message(_ROLES[role], as_text(content, where))
