"""A rule as a user writes it, for `constraints.function`."""


def apologises(response: str) -> float:
    """Return how much of a response is an apology, in [0, 1]."""
    return min(1.0, response.count("sorry") / 2)
