"""Other ways to train the same model on the same machine, each in processes of its own.

Every module is a worker's program (`benchmarks.workers.lines`): it is told the run's values and how many steps to take,
and answers with seconds. All of them share the model, its initial weights, the optimizer and the batches
(`benchmarks.baselines.work`); they differ in how the work is spread and in how tensors travel.
"""
