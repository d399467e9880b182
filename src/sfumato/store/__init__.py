"""What the server writes down and a later improvement reads: feedback, responses, and the versions of a model."""
