"""Serve one of a campaign's models over an OpenAI-compatible endpoint on the loopback interface."""
