"""What the server does with a sum: optimisers over adapter vectors."""
