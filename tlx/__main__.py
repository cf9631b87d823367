"""Entry point of python -m tlx."""

from .cli import main

main()
