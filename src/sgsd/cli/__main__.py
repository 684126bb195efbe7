"""`python -m sgsd.cli`, which is what `accelerate launch -m sgsd.cli` starts."""

from sgsd.cli.main import main

main()
