"""The cycle that makes a served model better: feedback, a dataset, a candidate, a gate, a new version."""
