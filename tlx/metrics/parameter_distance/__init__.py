"""Distances of parameters between three states of a network: norms, rules, parts."""
