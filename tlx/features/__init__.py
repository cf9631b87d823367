"""Features: activations of a network, classifiers trained on them, votes and scores."""
