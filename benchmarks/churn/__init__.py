"""Swarms whose peers come and go, in virtual time."""
