"""The page's files are what its commands read: its script writes data that the loaders take, for its configuration."""

import subprocess
import sys
from pathlib import Path

import pytest

from components.config import load_config
from components.data.preference_file import load_seed_pairs
from components.data.prompts import split_prompts
from tests.docs.pages import ROOT, blocks

PAGE = ROOT / "docs" / "first-campaign.md"


def test_first_campaign_files_fit_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (script,) = [block.text for block in blocks(PAGE) if block.language == "python"]
    (configuration,) = [block.text for block in blocks(PAGE) if block.language == "yaml"]
    monkeypatch.chdir(tmp_path)
    subprocess.run([sys.executable, "-c", script], check=True)
    Path("my-campaign.yaml").write_text(configuration)
    config = load_config(Path("my-campaign.yaml"))
    prompts = split_prompts(config.prompts)
    assert len(prompts.train) >= config.prompts.per_round
    assert len(prompts.held_out) == config.prompts.num_held_out
    pairs = load_seed_pairs("pairs.jsonl", split="train")
    assert len(pairs.pairs) == 400
    assert all(pair.chosen != pair.rejected for pair in pairs.pairs)


def test_first_campaign_judges_by_what_its_command_writes() -> None:
    """Catches a renamed directory: the judge's model is `--out` and `reward_model` below it."""
    text = PAGE.read_text(encoding="utf-8")
    (command,) = [line for line in text.splitlines() if line.startswith("ratchet reward-model ")]
    out = command.split("--out ")[1].split()[0]
    assert f"model: ./{out}/reward_model" in text
