"""Scoring says how far it is where its caller names what it counts, and nothing where another loop counts."""

from pathlib import Path

import pytest

from components.models.loading import load_policy, pick_device, resolve_dtype, start_ref
from components.runtime import progress
from components.scoring.response_logps import response_logps


class Reports:
    def __init__(self) -> None:
        self.seen: list[tuple[int, int, str]] = []

    def began(self, round: str, stage: str) -> None: ...

    def advanced(self, done: int, total: int, text: str) -> None:
        self.seen.append((done, total, text))

    def ended(self, round: str, stage: str, seconds: float, *, already_done: bool) -> None: ...


@pytest.mark.parametrize("counted_as", ["responses scored", ""])
def test_scoring_counts_rows_of_each_forward(counted_as: str, starter_directory: Path) -> None:
    """Scoring under the reference takes minutes before the first step of a training."""
    model = load_policy(
        start_ref(starter_directory, revision="main"), dtype=resolve_dtype("float32"), device=pick_device()
    )
    prompts, responses, reports = [[5, 6, n + 7] for n in range(5)], [[8, 9]] * 5, Reports()
    with progress.reporting_to(reports):
        response_logps(model.eval(), 0, prompts, responses, max_rows=2, counted_as=counted_as)
    expected = [(done, 5, "responses scored") for done in (0, 2, 4, 5)]
    assert reports.seen == (expected if counted_as else [])
