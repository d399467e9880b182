"""Data care: text that is fit to learn from, and a report of what was done to it."""
