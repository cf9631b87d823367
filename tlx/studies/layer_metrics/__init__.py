"""Metrics of the layers of activation dumps: RSA, sum of squares, intrinsic dimension."""
