"""Samplers: who joins a private step. One file for each kind."""
