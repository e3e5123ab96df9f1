"""The unsliced model out of a checkpoint's parts."""

from __future__ import annotations

from transformers import PreTrainedModel

from swarm.errors import CheckpointCorrupt
from swarm.model.slices import build_full, named_global_parameters
from swarm.training.checkpoint import CheckpointReader


def assemble(reader: CheckpointReader) -> PreTrainedModel:
    """Build the run's model on the CPU with a checkpoint's weights.

    Args:
        reader: of the checkpoint.

    Returns:
        The model, fp32, in evaluation mode.

    Raises:
        CheckpointCorrupt: a part is damaged or absent, or a shape is not the model's.
    """
    model = build_full(reader.config)
    parameters = dict(named_global_parameters(model))
    for name, tensor in reader.tensors("model", parameters).items():
        parameter = parameters[name]
        if tensor.shape != parameter.shape:
            raise CheckpointCorrupt(
                f"{name} is {tuple(tensor.shape)} in {reader.folder}, but {tuple(parameter.shape)} in the model",
                "use another checkpoint",
            )
        # Assigning keeps tied parameters tied, because it is the one Parameter that changes.
        parameter.data = tensor.to(parameter.dtype)
    model.eval()
    return model
