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
    usually: ClassVar[str] = "read the sentence that comes with it"
    """What to do about errors of this number, where nothing more is known of the case; no full stop."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem, remedy)
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"[{self.code}] {self.problem}; {self.remedy}."

    @property
    def exit_code(self) -> int:
        """The process's exit status."""
        return status_of(self.code)


class ConfigError(SwarmError):
    """A value that the configuration cannot hold."""

    code = "S100"
    usually = "correct the value that it names, in run.toml or among the options"


class UnknownKey(ConfigError):
    """A key that no configuration has."""

    code = "S101"
    usually = "take the name that it proposes"


class ShardUnreadable(ConfigError):
    """A shard file that cannot be opened or decoded."""

    code = "S110"
    usually = "check the path, and save the text as UTF-8"


class ShardEmpty(ConfigError):
    """A shard without a single token."""

    code = "S111"
    usually = "give a shard that holds text"


class ShardTooSmall(ConfigError):
    """A shard with fewer tokens than one microbatch needs."""

    code = "S112"
    usually = "add text to the shard, or choose a shorter context or smaller microbatches"


class TokenizerMismatch(ConfigError):
    """A tokenizer other than the one the run was made with."""

    code = "S113"
    usually = "use the run's own tokenizer, which its members get from the scheduler"


class ModelUnsupported(ConfigError):
    """A model that cannot be cut into a front, a trunk and a back."""

    code = "S120"
    usually = "choose another architecture"


class ModelTooLarge(ConfigError):
    """A model that does not fit into the memory of all peers together."""

    code = "S121"
    usually = "let more hosts join, raise their memory limits, or make the model smaller"


class MachineLimit(ConfigError):
    """A machine that has no more memory, disk or open files to give."""

    code = "S130"
    usually = "free memory, disk or open files (`ulimit -n`), or lower what this peer takes"


class NetworkError(SwarmError):
    """The network below the swarm does not do its part."""

    code = "S200"
    usually = "check the network"


class PortTaken(NetworkError):
    """The port to listen on belongs to another process."""

    code = "S201"
    usually = "choose another port, or 0 for a free one"


class DaemonFailed(NetworkError):
    """The libp2p daemon did not start or died."""

    code = "S202"
    usually = "check the address to listen on, and free memory"


class PeerUnavailable(NetworkError):
    """A peer that cannot be reached, or went away."""

    code = "S203"
    usually = "check that it runs, and the way to it"


class DeadlineExceeded(NetworkError):
    """An answer that did not come in the time that measurements allow."""

    code = "S204"
    usually = "look whether its machine sleeps or is overloaded"


class NotRunning(NetworkError):
    """A peer on this machine that was to be told something, and does not run."""

    code = "S205"
    usually = "start it with `swarm join`, or name its folder with --state-dir"


class NotReachable(NetworkError):
    """A peer that others cannot dial: it is behind somebody's router or firewall, and no relay helps."""

    code = "S206"
    usually = "forward its port in the router and give it with --port, or ask the admin for a scheduler with --relay"


class AdmissionError(SwarmError):
    """Not let in."""

    code = "S300"
    usually = "ask the run's admin"


class InviteInvalid(AdmissionError):
    """An invite that is damaged, forged, or of another run."""

    code = "S301"
    usually = "copy the invite as a whole, or ask the admin for a new one"


class InviteExpired(AdmissionError):
    """An invite past its time or its number of uses."""

    code = "S302"
    usually = "ask the admin for a new invite"


class NotAMember(AdmissionError):
    """A peer without a valid certificate of membership."""

    code = "S303"
    usually = "join with an invite of the right role"


class VersionMismatch(AdmissionError):
    """A peer that speaks another version of the protocol."""

    code = "S304"
    usually = "install the same version of the software on both machines"


class RunMismatch(AdmissionError):
    """A peer whose run configuration differs."""

    code = "S305"
    usually = "join with an invite of this run"


class StateDirectoryBusy(AdmissionError):
    """Two processes with one identity."""

    code = "S306"
    usually = "stop one of the two, or give one of them another --state-dir"


class Superseded(AdmissionError):
    """A scheduler that members do not obey: another one leads."""

    code = "S307"
    usually = "start this scheduler as a standby of the other one"


class StartedAnew(AdmissionError):
    """A member whose process is another one by now: it knows nothing of the part that it had."""

    code = "S308"
    usually = "nothing: its leader claims it again"


class ClockOff(AdmissionError):
    """A machine whose clock is not that of the others."""

    code = "S309"
    usually = "set the machine's clock, by NTP for instance"


class MemberPaused(AdmissionError):
    """A member whose people let it pause: it takes no part until they let it work again."""

    code = "S310"
    usually = "nothing: it announces itself when its people let it work again"


class MembershipRevoked(AdmissionError):
    """This peer is a member no more: the admin sent it away."""

    code = "S311"
    usually = "ask the run's admin"


class ProtocolError(SwarmError):
    """A message that the protocol does not allow."""

    code = "S400"
    usually = "install the same version on both sides; drop a peer that goes on"


class StaleStep(ProtocolError):
    """Work for a step, plan or round that is over."""

    code = "S401"
    usually = "nothing: it is ignored"


class TooLarge(ProtocolError):
    """A message larger than the receiver takes."""

    code = "S402"
    usually = "use smaller microbatches; drop a peer that goes on"


class NonFinite(ProtocolError):
    """A tensor with an infinity or a NaN."""

    code = "S403"
    usually = "lower the learning rate, or clip gradients"


class ReductionFailed(SwarmError):
    """An all-reduce round with a hole: it is repeated, never applied."""

    code = "S500"
    usually = "nothing: the round is repeated"


class RoundBroken(ReductionFailed):
    """A round that cannot finish, and the member it broke on.

    Args:
        problem: as in SwarmError.
        blamed: base58 id of the member to blame; empty when nobody is known to be.
    """

    code = "S501"
    usually = "nothing: it is repeated, and without the member to blame if it breaks again"

    def __init__(self, problem: str, blamed: str = "") -> None:
        super().__init__(problem, "repeat the round with the members that are left")
        self.blamed = blamed


class CheckpointError(SwarmError):
    """A checkpoint or an export that cannot be written or read."""

    code = "S600"
    usually = "free space on the disk, and check the path"


class CheckpointCorrupt(CheckpointError):
    """A checkpoint whose hashes do not match its manifest."""

    code = "S601"
    usually = "restore the folder from a backup, or take the checkpoint before"


class CheckpointMissing(CheckpointError):
    """No checkpoint where one was named."""

    code = "S602"
    usually = "check the path; checkpoints are in the checkpoints folder of the run"


class TargetExists(CheckpointError):
    """A file or folder that would be overwritten."""

    code = "S603"
    usually = "choose a new name"


class DiskRefused(CheckpointError):
    """A disk that does not take what has to be kept."""

    code = "S604"
    usually = "free space on its disk"


class RunError(SwarmError):
    """The run cannot start, or cannot go on."""

    code = "S700"
    usually = "read the sentence that comes with it; the last checkpoint is whole"


class StageWithoutHost(RunError):
    """A stage whose last replica is gone."""

    code = "S701"
    usually = "let a host join, or bring one back that had the stage"


def every_error() -> list[type[SwarmError]]:
    """All of this module, by number."""
    kinds = [kind for kind in globals().values() if isinstance(kind, type) and issubclass(kind, SwarmError)]
    return sorted(kinds, key=lambda kind: kind.code)


def retold(code: str, problem: str, remedy: str) -> SwarmError:
    """An error that another process told, as one of the same number; S000 where this version has none such."""
    kind = next((kind for kind in every_error() if kind.code == code), SwarmError)
    error = kind.__new__(kind)
    SwarmError.__init__(error, problem, remedy)
    return error


def status_of(code: str) -> int:
    """The exit status of a process that ends with an error of this number: 10 + its hundreds."""
    return 10 + int(code[1])
