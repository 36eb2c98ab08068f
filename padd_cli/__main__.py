"""`python -m padd_cli`, for launchers that take a module."""

from padd_cli.app import main

main()
