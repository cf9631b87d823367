"""Evaluate given models on the images of a data set, without training."""
