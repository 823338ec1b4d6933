"""What the parties agree on: plans, policies, identities, wire format, errors."""
