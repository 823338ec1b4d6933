"""Flower's side of a site, which holds nothing."""
