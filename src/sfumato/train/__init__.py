"""Training: one readable loop, its optimisers, averages and checkpoints."""
