"""What the images pass through: backbones, checkpoints, transfer, training."""
