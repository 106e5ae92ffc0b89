"""The fast forward: no padding, each prompt once, and head and last layer only where response tokens are predicted."""
