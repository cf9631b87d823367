"""Few-shot fine-tuning of a pretrained network."""
