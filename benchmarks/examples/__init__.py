"""Experiments as a researcher would script them with `swarm.client`."""
