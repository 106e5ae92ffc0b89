"""What is pinned before a training on demonstrations begins."""

import shutil
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest

from components.artifacts import digest
from components.config import CampaignSftConfig, PolicyConfig, SftConfig
from components.records import SftRequest
from components.sft.preparing import campaign_request, prepare_request


def prepared(source: str, base: Path, settings: SftConfig) -> SftRequest:
    return prepare_request(
        source, split="train", base=str(base), revision="main", settings=settings, system_prompt="", held_out=()
    )


@pytest.fixture
def dated(starter_directory: Path, tmp_path: Path) -> Path:
    """A base whose template reads the clock, and writes nothing of it."""
    base = tmp_path / "dated"
    shutil.copytree(starter_directory, base)
    template = base / "chat_template.jinja"
    template.write_text("{%- set today = strftime_now('%d %b %Y') -%}" + template.read_text())
    return base


def test_preparing_pins_the_day_only_if_the_template_writes_it(
    rows: Callable[[int], str], starter_directory: Path, dated: Path
) -> None:
    """A training that is continued after midnight must not render other conversations under another key."""
    source = rows(24)
    assert prepared(source, starter_directory, SftConfig()).settings.template_date == ""
    assert prepared(source, dated, SftConfig()).settings.template_date == date.today().isoformat()
    assert prepared(source, dated, SftConfig(template_date="2026-01-02")).settings.template_date == "2026-01-02"


def test_preparing_a_campaigns_training_takes_what_its_policy_says(
    rows: Callable[[int], str], starter_directory: Path
) -> None:
    sft = CampaignSftConfig(demonstrations=rows(24), epochs=3, rows_per_step=4)
    policy = PolicyConfig(model=str(starter_directory), dtype="float32", template_date="2026-01-02")
    request = campaign_request(sft, policy, held_out={"b", "a"}, template_date="2026-05-05", seed=9)
    settings = request.settings
    assert (settings.dtype, settings.template_date, settings.seed) == ("float32", "2026-01-02", 9)
    assert (settings.epochs, settings.rows_per_step) == (3, 4)
    assert request.held_out == ("a", "b")
    again = campaign_request(sft, policy, held_out={"a", "b"}, template_date="2026-05-05", seed=9)
    assert digest(again) == digest(request)
