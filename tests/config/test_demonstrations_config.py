"""Which keys go with pairs that are built from demonstrations."""

from typing import Any

import pytest
from pydantic import ValidationError

from components.artifacts import digest
from components.config import CampaignConfig, PreferencesConfig

SPIN: dict[str, Any] = {"pairs": "spin", "demonstrations": "d.jsonl"}
DITTO: dict[str, Any] = SPIN | {"pairs": "ditto"}
COLUMNS = {"train": "p.jsonl", "held_out": "h.jsonl", "weight_column": "w"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"preferences": {"pairs": "ditto"}}, "pairs ditto is built from demonstrations: name them"),
        ({"preferences": {"demonstrations": "d.jsonl"}}, "pairs best_worst reads none"),
        ({"preferences": SPIN | {"soft_labels": "bradley_terry"}}, "leave `soft_labels`, `ties` and `min_margin` out"),
        ({"preferences": SPIN | {"min_margin": 0.5}}, "leave `soft_labels`, `ties` and `min_margin` out"),
        ({"preferences": SPIN | {"feedback": {"use": "only"}}}, "is never built with feedback.use only"),
        ({"preferences": SPIN, "reference": "start"}, "set `reference: champion`, or `pairs: ditto`"),
        ({"preferences": SPIN, "prompts": COLUMNS}, "prompts.weight_column draws from prompts.train"),
        ({"preferences": DITTO, "prompts": {"solved_rounds": 2}}, "prompts.solved_rounds draws from prompts.train"),
        ({"preferences": DITTO, "active": {"budget": 4}}, "leave `active` out"),
        ({"preferences": SPIN, "judge": {"kind": "people"}, "evaluation_judge": {}}, "asks nothing"),
    ],
)
def test_config_refuses_what_demonstrations_do_not_read(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        CampaignConfig(campaign="x", **values)


def test_config_ditto_takes_the_start_as_reference() -> None:
    assert CampaignConfig(campaign="x", preferences=DITTO, reference="start").preferences.takes_demonstrations


def test_config_without_demonstrations_keeps_the_digest_of_earlier_versions() -> None:
    named = PreferencesConfig(**SPIN)
    assert digest(PreferencesConfig()) == digest(PreferencesConfig(demonstrations_split="train"))
    assert digest(named) != digest(PreferencesConfig(**SPIN | {"demonstrations": "e.jsonl"}))
