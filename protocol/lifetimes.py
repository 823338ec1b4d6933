"""How long what the parties issue to one another is valid."""

from datetime import timedelta

AUTHORITY = timedelta(days=3650)
"""Of the certificate by which a consortium's server signs the others."""
CERTIFICATE = timedelta(days=825)
"""Of a party's TLS certificate."""
CARD = timedelta(days=90)
"""Of a card, from when it is written until another party reads it."""
