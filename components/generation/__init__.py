"""Sampling of responses from the current policy."""
