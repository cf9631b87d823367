"""Statistics, tables and figures of finished results."""
