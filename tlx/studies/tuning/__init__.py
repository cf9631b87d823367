"""Search over classifiers, layers and recipes with Optuna."""
