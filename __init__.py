"""Hortus: privacy-preserving federated fine-tuning of language models."""

__all__ = ["__version__"]
__version__: str


def __getattr__(name: str) -> str:
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # A tenth of the time in which a slip in a plan is answered.
    from importlib.metadata import version  # noqa: PLC0415

    return version("hortus")
