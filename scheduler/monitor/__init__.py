"""What everybody with an invite may see of a run: announcements, gossiped by a process that reads the run's folder."""
