"""Making a model smaller: pruning, healing what was pruned, and quantisation, each measured against the original."""
