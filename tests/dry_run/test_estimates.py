"""The arithmetic of a dry run, worked by hand."""

import pytest

from components.dry_run import estimates
from components.dry_run.estimates import Counts, Rate, StageEstimate, num_steps, total, typical


def test_rate_by_hand() -> None:
    assert Rate(units=256, seconds=2.0).seconds_for(2048) == 16.0


def test_steps_of_a_training_count_a_last_step_of_few_pairs() -> None:
    assert [num_steps(pairs, pairs_per_step=16, epochs=2) for pairs in (16, 17, 461)] == [2, 4, 58]


def test_typical_step_leaves_out_the_first() -> None:
    assert typical([9.0, 1.0, 3.0, 2.0]) == 2.0
    assert typical([9.0, 1.0, 2.0]) == 1.5
    assert typical([9.0]) == 9.0


def test_total_names_the_stages_whose_time_is_unknown_and_counts_no_zero_for_them() -> None:
    stages = [
        StageEstimate("generate_responses", 10.0, None, ""),
        StageEstimate("collect_preferences", None, None, ""),
        StageEstimate("dpo_train", 5.0, None, ""),
    ]
    assert total(stages) == (15.0, ["collect_preferences"])


def test_counts_measure_from_the_first_report_of_a_count_to_its_last(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(estimates.time, "monotonic", lambda: now[0])
    counts = Counts()
    counts.began("round-001", "generate_responses")
    counts.advanced(500, 500, "prompts checked")
    now[0] += 30  # loading the model does not belong to the sampling
    for done in (0, 128, 256):
        counts.advanced(done, 256, "")
        now[0] += 4
    counts.began("round-001", "dpo_train")
    counts.advanced(0, 256, "steps of another stage")
    assert counts.rate("generate_responses", total=256) == Rate(256, 8.0)
    assert counts.rate("generate_responses", total=500) is None, "one report tells no speed"
    assert counts.rate("evaluate", total=256) is None
