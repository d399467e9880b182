"""Serving: an engine that decodes many requests together, and the OpenAI-compatible HTTP in front of it."""
