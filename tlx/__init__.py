"""tlx: which pre-trained network, feature extraction or fine-tuning, cut or frozen where, at what cost."""

__version__ = "0.1.0"
