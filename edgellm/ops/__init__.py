"""The operations of the forward pass: in C (`native`) and in NumPy (`reference`), interchangeable one by one."""
