"""Mirroring of studies to MLflow: the only code that imports it."""
