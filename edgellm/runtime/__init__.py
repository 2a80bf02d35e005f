"""Running a model: memory, weights, sampling, the token loop, and the `Engine` that ties them together."""
