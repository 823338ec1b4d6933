"""What a site's own operator sees and does."""
