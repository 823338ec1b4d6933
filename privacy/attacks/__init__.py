"""What somebody who sees a run's sums can learn."""
