"""A study that is killed -9 at random moments ends with the numbers of one that nothing disturbed."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.artifacts import read_json
from tests.faults.campaigns import CHECKOUT, WHOLE

KILLS = 5
VARYING = {"seconds", "peak_memory_bytes"}


def write_study(place: Path, model: Path) -> Path:
    base: dict[str, Any] = {
        "campaign": "base",
        "policy": {"model": str(model), "dtype": "float32", "max_prompt_tokens": 64, "max_response_tokens": 40},
        "prompts": {"per_round": 48, "num_held_out": 64},
        "generation": {"batch_size": 64},
        "validation": {"max_quarantine_share": 0.95, "min_pairs": 1},
        "training": {"learning_rate": 3e-4, "epochs": 2, "pairs_per_step": 4, "checkpoint_every": 6},
        "gate": {"max_unfinished_increase": 1.0},
    }
    arms = {
        "loop": {},
        "offline": {"method": "offline"},
        "ipo": {"change": {"training": {"loss": "ipo"}}},
        "best": {"method": "best_of_n"},
    }
    place.mkdir()
    (place / "base.yaml").write_text(yaml.safe_dump(base))
    study = {"study": "struck", "base": "base.yaml", "rounds": 2, "seeds": [1, 2], "arms": arms}
    (place / "study.yaml").write_text(yaml.safe_dump(study, sort_keys=False))
    return place


def start(place: Path) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "PYTHONPATH": str(CHECKOUT),
        "RATCHET_RUNS": str(place / "runs"),
        "PREFECT_HOME": str(place / "prefect"),
    }
    with (place / "log.txt").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "flows.cli", "study", str(place / "study.yaml")],
            cwd=CHECKOUT,
            env=environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def numbers(place: Path) -> Any:
    results = read_json(place / "runs" / "studies" / "struck" / "study.json")
    assert results["failures"] == []
    return [{key: value for key, value in each.items() if key not in VARYING} for each in results["outcomes"]]


@pytest.mark.skipif(not WHOLE, reason="takes a quarter of an hour; make test-faults")
@pytest.mark.timeout(3600)
def test_study_killed_at_random_moments_has_the_numbers_of_an_undisturbed_one(model: Path, tmp_path: Path) -> None:
    undisturbed, struck = (write_study(tmp_path / name, model) for name in ("undisturbed", "struck"))
    began = time.monotonic()
    assert start(undisturbed).wait() == 0, (undisturbed / "log.txt").read_text()
    seconds = time.monotonic() - began
    chance = random.Random(7)
    for number in range(KILLS):
        process = start(struck)
        time.sleep(chance.uniform(0.1, 0.9) * seconds / KILLS + 8)
        assert process.poll() is None, ("not killed", number, (struck / "log.txt").read_text())
        process.kill()
        process.wait()
    assert start(struck).wait() == 0, (struck / "log.txt").read_text()
    assert numbers(struck) == numbers(undisturbed)
    assert len(numbers(struck)) == 8
