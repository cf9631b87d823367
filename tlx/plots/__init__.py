"""Finished results → statistics, tables, figures."""
