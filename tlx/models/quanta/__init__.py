"""QUANTA gates, the original's CNNs and their training."""
