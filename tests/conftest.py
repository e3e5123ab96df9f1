"""For all tests: one thread of matrix products, or a busy two-core machine slows tiny ones a hundredfold."""

import torch

torch.set_num_threads(1)
