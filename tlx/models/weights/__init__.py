"""Read, check and match weight files."""
