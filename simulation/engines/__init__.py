"""Simulation engines: how a plan's virtual sites take part in its rounds, one file a kind."""
