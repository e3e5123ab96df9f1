"""Every error a user can meet: numbered, one sentence, with the remedy.

SwarmError
├── ConfigError         S1xx  the run's or this node's configuration, the shard, the tokenizer
├── NetworkError        S2xx  ports, daemons, peers that do not answer
├── AdmissionError      S3xx  invites, membership, versions
├── ProtocolError       S4xx  what a peer sent is not what the protocol allows
├── ReductionFailed     S5xx  an all-reduce that did not finish whole
├── CheckpointError     S6xx  checkpoints and exports
└── RunError            S7xx  the run cannot start or go on
"""

from __future__ import annotations

from typing import ClassVar


class SwarmError(Exception):
    """An error with a number, a sentence and a remedy.

    Args:
        problem: what is wrong, naming the values that clash; no full stop.
        remedy: what the reader can do about it; no full stop.
    """

    code: ClassVar[str] = "S000"

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem, remedy)
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"[{self.code}] {self.problem}; {self.remedy}."

    @property
    def exit_code(self) -> int:
        """The process's exit status: 10 + the hundreds of the number."""
        return 10 + int(self.code[1])


def every_error() -> list[type[SwarmError]]:
    """All of them, by number."""
    found: dict[str, type[SwarmError]] = {}
    waiting: list[type[SwarmError]] = [SwarmError]
    while waiting:
        kind = waiting.pop()
        if "code" in vars(kind):  # others only refine what a number says
            found.setdefault(kind.code, kind)
        waiting += kind.__subclasses__()
    return [found[code] for code in sorted(found)]


def by_code(code: str) -> type[SwarmError]:
    """The error that bears a number; SwarmError itself where this version has none such."""
    return next((kind for kind in every_error() if kind.code == code), SwarmError)


class ConfigError(SwarmError):
    """A value that the configuration cannot hold."""

    code = "S100"


class UnknownKey(ConfigError):
    """A key that no configuration has."""

    code = "S101"


class ShardUnreadable(ConfigError):
    """A shard file that cannot be opened or decoded."""

    code = "S110"


class ShardEmpty(ConfigError):
    """A shard without a single token."""

    code = "S111"


class ShardTooSmall(ConfigError):
    """A shard with fewer tokens than one microbatch needs."""

    code = "S112"


class TokenizerMismatch(ConfigError):
    """A tokenizer other than the one the run was made with."""

    code = "S113"


class ModelUnsupported(ConfigError):
    """A model that cannot be cut into a front, a trunk and a back."""

    code = "S120"


class ModelTooLarge(ConfigError):
    """A model that does not fit into the memory of all peers together."""

    code = "S121"


class MachineLimit(ConfigError):
    """A machine that has no more memory, disk or open files to give."""

    code = "S130"


class NetworkError(SwarmError):
    """The network below the swarm does not do its part."""

    code = "S200"


class PortTaken(NetworkError):
    """The port to listen on belongs to another process."""

    code = "S201"


class DaemonFailed(NetworkError):
    """The libp2p daemon did not start or died."""

    code = "S202"


class PeerUnavailable(NetworkError):
    """A peer that cannot be reached, or went away."""

    code = "S203"


class DeadlineExceeded(NetworkError):
    """An answer that did not come in the time that measurements allow."""

    code = "S204"


class NotRunning(NetworkError):
    """A peer on this machine that was to be told something, and does not run."""

    code = "S205"


class AdmissionError(SwarmError):
    """Not let in."""

    code = "S300"


class InviteInvalid(AdmissionError):
    """An invite that is damaged, forged, or of another run."""

    code = "S301"


class InviteExpired(AdmissionError):
    """An invite past its time or its number of uses."""

    code = "S302"


class NotAMember(AdmissionError):
    """A peer without a valid certificate of membership."""

    code = "S303"


class VersionMismatch(AdmissionError):
    """A peer that speaks another version of the protocol."""

    code = "S304"


class RunMismatch(AdmissionError):
    """A peer whose run configuration differs."""

    code = "S305"


class StateDirectoryBusy(AdmissionError):
    """Two processes with one identity."""

    code = "S306"


class Superseded(AdmissionError):
    """A scheduler that members do not obey: another one leads."""

    code = "S307"


class StartedAnew(AdmissionError):
    """A member whose process is another one by now: it knows nothing of the part that it had."""

    code = "S308"


class ClockOff(AdmissionError):
    """A machine whose clock is not that of the others."""

    code = "S309"


class MemberPaused(AdmissionError):
    """A member whose people let it pause: it takes no part until they let it work again."""

    code = "S310"


class ProtocolError(SwarmError):
    """A message that the protocol does not allow."""

    code = "S400"


class StaleStep(ProtocolError):
    """Work for a step, plan or round that is over."""

    code = "S401"


class TooLarge(ProtocolError):
    """A message larger than the receiver takes."""

    code = "S402"


class NonFinite(ProtocolError):
    """A tensor with an infinity or a NaN."""

    code = "S403"


class ReductionFailed(SwarmError):
    """An all-reduce round with a hole: it is repeated, never applied."""

    code = "S500"


class CheckpointError(SwarmError):
    """A checkpoint or an export that cannot be written or read."""

    code = "S600"


class CheckpointCorrupt(CheckpointError):
    """A checkpoint whose hashes do not match its manifest."""

    code = "S601"


class CheckpointMissing(CheckpointError):
    """No checkpoint where one was named."""

    code = "S602"


class TargetExists(CheckpointError):
    """A file or folder that would be overwritten."""

    code = "S603"


class DiskRefused(CheckpointError):
    """A disk that does not take what has to be kept."""

    code = "S604"


class RunError(SwarmError):
    """The run cannot start, or cannot go on."""

    code = "S700"


class StageWithoutHost(RunError):
    """A stage whose last replica is gone."""

    code = "S701"
