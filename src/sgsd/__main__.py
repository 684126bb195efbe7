"""`python -m sgsd`: the command line."""

from sgsd.cli.main import main

main()
