"""What a run leaves behind, and what is said of it."""
