"""What the model computes: configuration, rope tables and the forward pass. No I/O, no clock."""
