"""What a site agrees to, and why it refuses."""
