"""Trained models as other programs open them, each with a model card."""
