"""Faults by a seeded schedule on a fleet of real processes, and what its ledgers must say afterwards."""
