"""Processes that cases start: one member, one peer each."""
