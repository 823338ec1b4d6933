"""What the parties agree on, sign and send: plans, policies, contracts, identities, wire format."""
