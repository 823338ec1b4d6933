"""Flower's side of the server, guarded."""
