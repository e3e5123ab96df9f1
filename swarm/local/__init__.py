"""A whole swarm of real processes on one machine."""
