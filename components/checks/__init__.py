"""Data checks: what is wrong with a file of preference pairs, with examples that are safe to show."""
