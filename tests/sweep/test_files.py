from pathlib import Path
from typing import Any

import pytest

from components.config import CampaignConfig, load_config
from components.sweep.files import write_winner


@pytest.mark.parametrize(
    "values",
    [
        {"training": {"beta": 0.3, "learning_rate": 1e-4}},
        # Left out, the rate of all weights would become that of an adapter, twenty times as high.
        {"lora": {"rank": 8}, "training": {"learning_rate": 5e-6}},
    ],
)
def test_winner_is_read_as_it_was_found(values: dict[str, Any], tmp_path: Path) -> None:
    campaign = CampaignConfig.model_validate({"campaign": "mine-winner"} | values)
    path = write_winner(tmp_path, campaign, about="Sweep mine: the winner is better")
    assert load_config(path) == campaign
    assert path.read_text().startswith("# Sweep mine: the winner is better\n")
