"""QUANTA: how much of each source layer a target uses, by a learned gate."""
