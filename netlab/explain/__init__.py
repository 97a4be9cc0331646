"""Service rules as a node's kernel has them: read back, sorted by Service, and put into words."""
