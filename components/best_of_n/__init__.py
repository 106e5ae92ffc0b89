"""Best-of-n: no training; a judge picks the best of n answers of the start model."""

RESULT = "best_of_n.json"
"""File of the stage."""
