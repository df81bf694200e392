"""`python -m stages.commands`: the same as `intents`, where the package is not installed."""

from stages.commands import main

main(prog_name="intents")
