"""Models, adapters, tasks, datasets, metrics and export."""
