"""AG-VAS in PyTorch: model, synthetic data, training, merging, and the reference engine."""
