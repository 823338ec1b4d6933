"""Every parser of what a person or another party gives."""

from fuzzing.books import BOOKS
from fuzzing.files import FILES
from fuzzing.messages import MESSAGES
from fuzzing.models import MODELS
from fuzzing.records import RECORDS
from fuzzing.sessions import SESSIONS

PARSERS = (*MESSAGES, *SESSIONS, *FILES, *BOOKS, *RECORDS, *MODELS)
