"""Tuning: a trained model learns to answer."""
