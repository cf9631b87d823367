"""The command line: a thin skin, one short module per entry point."""
