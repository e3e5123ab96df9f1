"""What both programs of the swarm speak and compute with."""

__version__ = "0.1.0"
