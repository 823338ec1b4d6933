"""Gradient engines: how the gradients of single units are computed. One file for each kind."""
