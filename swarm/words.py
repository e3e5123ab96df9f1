"""Words for people that every program uses. Pure."""

from __future__ import annotations


def short(peer: str) -> str:
    """A peer id as people can tell it apart."""
    return peer[-6:]


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, as few as needed."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
