"""Chop a network behind block n, or prune its weights by magnitude."""
