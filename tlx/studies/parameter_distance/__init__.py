"""Transferability from distances between random, pretrained and fine-tuned weights."""
