"""Real flows on a small campaign.

A Prefect server of the test session, a start model that is trained a little, a SQLite MLflow.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from components.config import CampaignConfig


@pytest.fixture(scope="session")
def prefect_session() -> Iterator[None]:
    """One Prefect server for all tests of the session."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=180):
        yield


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty directory of campaigns."""
    monkeypatch.setenv("RATCHET_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


@pytest.fixture
def make_config(starter_directory: Path) -> Callable[..., CampaignConfig]:
    """A campaign that takes seconds: few prompts, few steps. Keyword arguments replace whole top-level values."""

    def make(**changes: Any) -> CampaignConfig:
        values: dict[str, Any] = {
            "campaign": "small",
            "num_rounds": 1,
            "policy": {
                "model": str(starter_directory),
                "dtype": "float32",
                "max_prompt_tokens": 64,
                "max_response_tokens": 40,
            },
            "prompts": {"per_round": 24, "num_held_out": 48},
            "generation": {"samples_per_prompt": 4, "batch_size": 48},
            "validation": {"max_quarantine_share": 0.95, "min_pairs": 1},
            "training": {"learning_rate": 3e-4, "epochs": 1, "pairs_per_step": 8, "micro_batch_pairs": 8},
            "gate": {"max_unfinished_increase": 1.0},
        }
        return CampaignConfig.model_validate(values | changes)

    return make
