"""What of a model is trained: adapters, and the flat vector that they make."""
