"""Computing a step: the compute thread, optimizer, checkpoints, the single-process reference."""
