"""An attack on a run's own plan, and what it shows."""
