"""Relate layer metrics at training checkpoints to transfer performance."""
