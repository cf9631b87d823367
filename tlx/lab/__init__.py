"""Logistics: run folders, workers, tracking, cost. Knows no image."""
