"""A site's signed record of what it has spent."""
