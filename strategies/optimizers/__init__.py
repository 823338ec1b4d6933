"""Optimisers over adapter vectors, one file a kind; either side of a strategy may step with any."""
