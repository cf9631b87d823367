"""Metrics of rows that are read a block at a time, so that memory holds two blocks, not all rows.

Every piece of work is a function of `BlockRows`, ranges of rows and small arrays, all of which
pickle: threads of one machine run them here, and so may an engine elsewhere. Pieces are joined in
a fixed order, so that the order in which they end changes no bit.
"""
