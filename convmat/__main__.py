"""`python -m convmat`."""

from convmat.cli import main

main()
