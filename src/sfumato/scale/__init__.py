"""The scaling study: a ladder of small models, the law of their losses, and what it says about larger ones."""
