"""Clipped sums of per-unit gradients."""
