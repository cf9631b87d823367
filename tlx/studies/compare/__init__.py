"""Study: feature extraction or fine-tuning, with the probability of being wrong and the cost."""
