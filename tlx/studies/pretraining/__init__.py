"""Train a network on all images of a data set, with checkpoints."""
