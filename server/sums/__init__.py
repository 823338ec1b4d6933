"""The server's half of the secure sum."""
