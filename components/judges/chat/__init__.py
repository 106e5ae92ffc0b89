"""Questions to an OpenAI-compatible chat endpoint.

Concurrent, rate-limited, within a budget, and cached so that no answer is paid for twice.
"""
