"""`python -m netlab`."""

from netlab.cli.main import main

main()
