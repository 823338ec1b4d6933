"""Base models: found, checked, read without running their code, and converted."""
