"""Reading, checking and matching of weight files."""
