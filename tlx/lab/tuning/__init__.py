"""Search with Optuna: the only code that imports it."""
