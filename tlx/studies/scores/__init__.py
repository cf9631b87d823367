"""Transferability scores of sources on the training images of a data set, without any training."""
