"""Everything that leaves a process, caught and searched for text."""
