"""What people see of a run: pages, metrics and alerts, from the files in the run's folder."""
