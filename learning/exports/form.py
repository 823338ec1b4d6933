"""The forms that a trained model is exported in."""

from enum import StrEnum


class Form(StrEnum):
    """What an export is."""

    ADAPTER = "adapter"
    """The adapter alone, in PEFT's format."""
    MERGED = "merged"
    """The whole model, the adapter merged into its weights, as safetensors."""
    ONNX = "onnx"
    """The whole model as an ONNX graph."""
