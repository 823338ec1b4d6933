"""Accountants that choose a plan's noise. One file for each kind."""
