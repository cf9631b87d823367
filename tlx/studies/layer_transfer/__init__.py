"""Layer transfer: AnB, BnB and AnB+ (Yosinski et al. 2014)."""
