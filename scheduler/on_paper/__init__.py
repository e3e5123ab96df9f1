"""A swarm on paper: what peers that nobody has asked yet would do together."""
