"""Which records go through a model together, and how they are kept apart."""
