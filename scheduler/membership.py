"""Who is here, in the scheduler's eyes: admitted, measured, lost. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from swarm.wire.messages import Capabilities


@dataclass(slots=True)
class Roster:
    """Registered members and when there are enough of them.

    Args:
        min_hosts, min_owners: the first plan waits for so many.
    """

    min_hosts: int
    min_owners: int
    _members: dict[str, Capabilities] = field(default_factory=dict)
    _lost: set[str] = field(default_factory=set)

    def register(self, peer: str, admitted: tuple[str, ...], capabilities: Capabilities) -> bool:
        """Take in what a member measured; False where it claims what it was not admitted for, or was lost."""
        if peer in self._lost:
            return False
        if not capabilities.roles or not set(capabilities.roles) <= set(admitted):
            return False
        if not _is_measured(capabilities):
            return False
        self._members[peer] = capabilities
        return True

    def rerate(self, peer: str, layer_s: float) -> Capabilities | None:
        """A host turned out to be faster or slower; its figures now, or None where it is not here."""
        facts = self._members.get(peer)
        if facts is not None:
            facts = self._members[peer] = replace(facts, layer_seconds=layer_s)
        return facts

    def lose(self, peer: str) -> None:
        """A member is gone; its record in the directory outlives it."""
        self._lost.add(peer)
        self._members.pop(peer, None)

    def is_here(self, peer: str) -> bool:
        """Whether a peer has registered and was not lost since."""
        return peer in self._members

    @property
    def members(self) -> dict[str, Capabilities]:
        """Everybody who is here."""
        return self._members

    @property
    def hosts(self) -> dict[str, Capabilities]:
        """Members that host, in a fixed order."""
        return self._with("host")

    @property
    def owners(self) -> dict[str, Capabilities]:
        """Members that own data, in a fixed order."""
        return self._with("owner")

    @property
    def is_complete(self) -> bool:
        """Whether the first plan can be made."""
        return len(self.hosts) >= self.min_hosts and len(self.owners) >= self.min_owners

    @property
    def waiting_for(self) -> str:
        """In a person's words."""
        missing_hosts = max(0, self.min_hosts - len(self.hosts))
        missing_owners = max(0, self.min_owners - len(self.owners))
        return f"{missing_hosts} more hosts and {missing_owners} more owners"

    def _with(self, role: str) -> dict[str, Capabilities]:
        return {peer: found for peer, found in sorted(self._members.items()) if role in found.roles}


def _is_measured(facts: Capabilities) -> bool:
    """Whether every figure is there that a plan needs."""
    needed = [facts.up_bytes_per_s, facts.down_bytes_per_s]
    if "host" in facts.roles:
        needed += [facts.layer_seconds, facts.layer_bytes, facts.graph_bytes]
    if "owner" in facts.roles:
        needed.append(facts.ends_seconds)
    return min(needed) > 0
