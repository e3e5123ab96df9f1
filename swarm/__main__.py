"""`python -m swarm` is the console command."""

from swarm.cli import main

main()
