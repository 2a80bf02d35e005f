"""From the weights that a model comes with to the low-bit codes that the kernels run on."""
