"""Validation: the checks of preference pairs before training, and the quarantine of pairs that fail."""
