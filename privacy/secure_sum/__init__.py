"""Keys, and masks that cancel in a sum."""
