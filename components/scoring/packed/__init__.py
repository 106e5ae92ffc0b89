"""The fast forward.

No padding, each prompt once for all its responses, head and last layer only where a response is predicted.
"""
