"""Logistics of experiments: run folders, workers, tracking, cost; independent of images."""
