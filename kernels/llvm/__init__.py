"""Kernels whose inner loops are LLVM instructions built by hand; README.md explains the idioms.

Import these modules inside functions, after `dispatch` has said that Numba compiles them: every
kernel has a plain twin one folder up.
"""
