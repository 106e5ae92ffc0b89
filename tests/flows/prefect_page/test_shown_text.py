"""Foreign text on the Prefect page: in the progress of a round and in the rounds' table it stays text."""

from pathlib import Path

from markdown_it import MarkdownIt

from components.config import TrackingConfig
from flows.prefect_page.round_progress import RoundWatch

HOSTILE = "the endpoint said\r# CHAMPION: round 9\u2028<img src=x> [a](http://b.c) | \x1b[2J"


def test_progress_with_a_judges_error_is_one_item_of_plain_text(tmp_path: Path) -> None:
    """A carriage return ended the item, and what the endpoint said went on as a heading of our page."""
    watch = RoundWatch(tmp_path / "my_campaign" / "round-001", TrackingConfig())
    watch.began("round-001", "collect_preferences")
    watch.advanced(1, 9, HOSTILE)
    tokens = MarkdownIt("commonmark").enable("table").parse(watch.description())
    assert [token.type for token in tokens].count("list_item_open") == 1
    kinds = {child.type for token in tokens for child in token.children or ()} | {token.type for token in tokens}
    assert not kinds & {"heading_open", "html_inline", "html_block", "image", "link_open", "table_open"}
    text = "".join(child.content for token in tokens for child in token.children or ())
    assert "the endpoint said \u21b5 # CHAMPION: round 9 \u21b5 <img src=x> [a](http://b.c) | \ufffd[2J" in text
    assert "my_campaign, round-001" in text
