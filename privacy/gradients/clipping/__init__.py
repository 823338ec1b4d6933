"""Clipping rules: from the norms of units' gradients to the factors they are scaled by. One file for each kind."""
