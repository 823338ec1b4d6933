"""Records: read from files, checked against a plan, cut into virtual sites."""
