"""Hortus: privacy-preserving federated fine-tuning of language models."""

from importlib.metadata import version

__version__ = version("hortus")
__all__ = ["__version__"]
