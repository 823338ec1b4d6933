"""Base models, what they are trained to do, what of them is trained, and records."""
