"""Comparison of challenger, champion and start on held-out prompts."""
