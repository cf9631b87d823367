"""Few-shot feature extraction: classifiers on activations of a frozen network."""
