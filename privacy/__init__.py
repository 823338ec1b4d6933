"""Per-unit gradients, noise, accounting, the secure sum, the ledger and its audit."""
