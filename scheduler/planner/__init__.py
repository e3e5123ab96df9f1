"""From measured peers to a plan."""
