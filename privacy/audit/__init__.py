"""Every number of a ledger, computed again from signed evidence by code of its own."""
