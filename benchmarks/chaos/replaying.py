"""The last checkpoint against one process that replays the ledger up to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from benchmarks.chaos.history import Step
from swarm.config import RunConfig
from swarm.data.shards import Shard
from swarm.data.tokenizer import load_tokenizer
from swarm.errors import CheckpointMissing, RunError
from swarm.training.checkpoint import CheckpointReader, newest_checkpoint
from swarm.training.reference import LedgerItem, LedgerStep, replay


@dataclass(frozen=True, slots=True)
class Compared:
    """A checkpoint and the reference.

    Attributes:
        step: of the checkpoint.
        max_weight_rel_diff: the largest difference within a tensor over the largest magnitude in it, of the worst one.
        max_loss_rel_diff: of the mean losses of all steps up to it.
    """

    step: int
    max_weight_rel_diff: float
    max_loss_rel_diff: float


def newest_of(folders: Iterable[Path]) -> CheckpointReader:
    """The newest checkpoint in any of these folders of checkpoints.

    Raises:
        CheckpointMissing: there is none.
    """
    readers = []
    for folder in folders:
        try:
            readers.append(CheckpointReader(newest_checkpoint(folder)))
        except CheckpointMissing:
            continue
    if not readers:
        raise CheckpointMissing("no scheduler wrote a checkpoint", "let the run go on for longer")
    return max(readers, key=lambda reader: reader.step)


def compare(
    reader: CheckpointReader, steps: Sequence[Step], config: RunConfig, shards: Mapping[str, Path], folder: Path
) -> Compared:
    """Replay every step that the checkpoint has seen.

    Args:
        steps: of the history, from 0 and without a gap.
        shards: text by the owner's peer id.
        folder: keeps the tokenised text.

    Raises:
        RunError: the history ends before the checkpoint, or its parameters are not the model's.
    """
    seen = steps[: reader.step]
    if [step.step for step in seen] != list(range(reader.step)):
        raise RunError(f"the logs do not have every step before checkpoint {reader.step}", "look at steps_lost")
    opened = {
        peer: Shard.open(config, path, folder, load_tokenizer(config, None)) for peer, path in sorted(shards.items())
    }
    seeds = {peer: shard.sampling_seed(config.seed) for peer, shard in opened.items()}

    def ledger() -> Iterator[LedgerStep]:
        for step in seen:
            yield LedgerStep(
                step.plan,
                [LedgerItem(opened[work.owner].train_tokens, seeds[work.owner], work.cursor) for work in step.work],
            )

    reference = replay(config, ledger(), threads=1)
    losses = [
        abs(ours.loss_sum / ours.tokens - theirs.mean_loss) / abs(theirs.mean_loss)
        for ours, theirs in zip(seen, reference.steps, strict=True)
    ]
    return Compared(reader.step, _weights_differ(_weights(reader), reference.weights), max(losses, default=0.0))


def _weights(reader: CheckpointReader) -> dict[str, Tensor]:
    return {
        name: tensor for part in reader.parts if part.startswith("model-") for name, tensor in reader.part(part).items()
    }


def _weights_differ(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> float:
    if ours.keys() != theirs.keys():
        raise RunError("the checkpoint holds other parameters than the model", "report this: it is a bug")
    return max(float((ours[name] - theirs[name]).abs().max() / theirs[name].abs().max()) for name in theirs)
