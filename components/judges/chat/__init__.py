"""Questions to an OpenAI-compatible chat endpoint.

Concurrent, limited, budgeted, and cached so that no answer is paid for twice.
"""
