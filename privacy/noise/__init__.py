"""Exact discrete noise, and the sums that it is added to."""
