"""Watching a run from anywhere: signed announcements over py-libp2p. Needs neither torch nor the Go daemon."""
