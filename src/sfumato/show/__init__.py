"""Views of a trace: watch a text appear out of noise."""
