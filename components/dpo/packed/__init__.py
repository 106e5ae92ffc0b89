"""The fast forward: no padding, each prompt once for all its responses, the head only where a response is predicted."""
