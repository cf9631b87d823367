"""Slow twins of what tlx computes: numpy only, and not a line in common with the code they check."""

import numpy as np
