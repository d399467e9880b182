"""Training text: sources, tokenised cache, packing and resumable batches."""
