"""Generation: the one decoder loop, and one file a sampler."""
