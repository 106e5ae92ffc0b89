"""Reports of campaigns with many rounds.

What an earlier round costs is paid once, and what cannot be read any more is not drawn.
"""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from components.artifacts import write_json
from components.report.campaign import SAMPLED_ROUNDS, write_report
from components.report.charts import MAX_TOOLTIPS


def lengthened(maker: Any, rounds: int) -> Path:
    """Add rounds like the third to the campaign, up to `rounds` in all, and return its directory."""
    directory = maker.directory
    state = json.loads((directory / "campaign.json").read_text())
    records = [state["rounds"][2] | {"round": number, "promoted": number % 2 == 1} for number in range(1, rounds + 1)]
    for number in range(4, rounds + 1):
        place = directory / f"round-{number:03d}"
        place.mkdir()
        for stage in (directory / "round-003").iterdir():
            (place / stage.name).symlink_to(stage)
    write_json(directory / "campaign.json", state | {"rounds": records})
    return directory


def test_report_written_again_reads_no_table_of_an_earlier_round(
    three_rounds: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = lengthened(three_rounds, 8)
    before = write_report(directory).read_text()
    read: list[Path] = []
    whole = pd.read_parquet
    monkeypatch.setattr("pandas.read_parquet", lambda path, **options: (read.append(path), whole(path, **options))[1])
    assert write_report(directory).read_text() == before
    assert {path.parent.parent.name for path in read} == {"round-008"}


def test_report_of_a_round_that_was_published_again_tells_the_new_numbers(three_rounds: Any) -> None:
    assert "4,242" not in write_report(three_rounds.directory).read_text()
    path = three_rounds.directory / "round-002" / "collect_preferences" / "collect.json"
    counts = json.loads(path.read_text())
    three_rounds.stage(2, "collect_preferences", {"collect.json": counts | {"ties": 4242}})
    assert "4,242" in write_report(three_rounds.directory).read_text()


def test_report_of_many_rounds_lists_them_all_and_bounds_marks_and_samples(three_rounds: Any) -> None:
    rounds = MAX_TOOLTIPS + 5
    page = write_report(lengthened(three_rounds, rounds)).read_text()
    assert all(f'<th scope="row">{number}</th>' in page for number in range(1, rounds + 1))
    assert "<title>round" not in page
    assert page.count("kept samples; champion") == SAMPLED_ROUNDS
    assert f"Rounds before {rounds - SAMPLED_ROUNDS + 1} are left out here" in page
