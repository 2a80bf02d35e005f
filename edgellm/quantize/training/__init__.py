"""Quantization by gradient descent, in torch: layer by layer (`reconstruct`) or the whole model (`distill`). Needs the extra `train`."""
