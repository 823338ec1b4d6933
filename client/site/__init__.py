"""A site's folder: what it holds, its connection, and what it has agreed to."""
