"""Serve one of a campaign's models over an OpenAI-compatible endpoint that requires a key."""
