"""What the report says of users' thumbs: the numbers that the stage published, and why some were not trained on."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from components.campaign.files import RoundFiles
from components.config import FeedbackConfig
from components.feedback.store import STORE, FeedbackStore
from components.records import TakeFeedbackRequest
from components.report.campaign import write_report
from components.report.round import round_markdown
from components.report.thumbs import CAUSE_HEADINGS, HEADINGS, cause_rows, thumb_rows
from components.runtime.launch import run_stage
from tests.feedback.thumbs import keep

ROUND = {"promoted": True, "reasons": ("wins",), "vs_champion": 0.6}


def take(campaign: Path, round: int, **settings: Any) -> RoundFiles:
    """Run the stage as the flow does, and return the round's files."""
    request = TakeFeedbackRequest(
        store=campaign / STORE,
        feedback=FeedbackConfig(**({"use": "with_round", "min_rows": 2} | settings)),
        singles=True,
        cut_answers=True,
        phone_region="US",
        earlier=(),
    )
    run_stage("take_feedback", request, campaign / f"round-{round:03d}")
    return RoundFiles(campaign / f"round-{round:03d}", round, None, seeded=False)


@pytest.fixture
def store(tmp_path: Path) -> FeedbackStore:
    """Eight thumbs: two up, one down and a correction that can be trained on, and four that cannot."""
    store = FeedbackStore(tmp_path / STORE)
    keep(store, 1)
    store.erase_texts(days=1, now=datetime.now(UTC) + timedelta(days=2))
    keep(store, 2)
    keep(store, 3)
    keep(store, 4, thumb="down")
    keep(store, 5, thumb="down", correction="We will replace it.")
    keep(store, 6, response="Write to bob@acme-widgets.com")
    keep(store, 7, thumb="down", response="Write to eve@acme-widgets.com")
    keep(store, 8, origin=None)
    return store


@pytest.mark.usefixtures("store")
def test_round_tells_of_every_thumb_what_became_of_it(tmp_path: Path) -> None:
    files = take(tmp_path, 1)
    assert thumb_rows(files) == [("8", "5", "2", "1", "4", "2", "2", "0")]
    assert cause_rows(files) == [
        ("set aside, personal_data: e-mail address", "2"),
        ("deleted after preferences.feedback.retention_days", "1"),
        ("not known to be the server's answers", "1"),
    ]


@pytest.mark.usefixtures("store")
def test_thumbs_beyond_the_limits_are_left_to_later_rounds(tmp_path: Path) -> None:
    capped = take(tmp_path, 1, max_rows=3)
    assert thumb_rows(capped) == [("8", "5", "2", "1", "3", "0", "2", "3")]
    assert cause_rows(capped)[-1] == ("beyond preferences.feedback.max_rows", "3")


@pytest.mark.usefixtures("store")
def test_round_with_too_few_thumbs_says_so_and_loses_none(tmp_path: Path) -> None:
    files = take(tmp_path, 1, min_rows=5)
    assert thumb_rows(files) == [("8", "5", "2", "1", "0", "0", "2", "6")]
    cause, number = cause_rows(files)[-1]
    assert cause.startswith("4 usable thumbs are unused")
    assert cause.endswith("fewer than preferences.feedback.min_rows = 5")
    assert number == "6"


def test_round_that_takes_no_thumbs_has_no_table_of_them(tmp_path: Path) -> None:
    files = RoundFiles(tmp_path, 1, None, seeded=False)
    assert thumb_rows(files) == cause_rows(files) == []


def test_report_and_the_rounds_page_show_the_thumbs_without_their_texts(make_campaign: Callable[..., Any]) -> None:
    maker = make_campaign()
    store = FeedbackStore(maker.directory / STORE)
    for number in range(1, 4):
        keep(store, number, thumb="down" if number == 3 else "up")
    keep(store, 4, response="Write to bob@acme-widgets.com")
    take(maker.directory, 1)
    maker.round(1, **ROUND)
    html = write_report(maker.directory).read_text()
    assert re.search(r"<h3>Thumbs of users</h3>.*personal_data: e-mail address", html, re.DOTALL)
    page = round_markdown(maker.directory, 1)
    assert f"| {' | '.join(HEADINGS)} |" in page
    assert "| 4 | 3 | 1 | 0 | 3 | 1 | 0 | 0 |" in page
    assert f"| {' | '.join(CAUSE_HEADINGS)} |" in page
    for text in ("acme", "answer 1"):
        assert text not in page
        assert text not in html


def test_report_of_a_campaign_without_thumbs_has_no_section_of_them(make_campaign: Callable[..., Any]) -> None:
    maker = make_campaign()
    maker.round(1, **ROUND)
    assert "Thumbs of users" not in write_report(maker.directory).read_text()
    assert "Thumbs of users" not in round_markdown(maker.directory, 1)
