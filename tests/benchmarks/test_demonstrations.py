"""The short form of the comparison of demonstrations: one seed, few prompts, one round."""

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).parent


@pytest.fixture
def demonstrations(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The benchmark, which is a script beside the modules that it imports."""
    monkeypatch.syspath_prepend(str(HERE))
    yield importlib.import_module("demonstrations")
    for name in ("demonstrations", "one_round", "measuring"):
        sys.modules.pop(name, None)


def test_demonstrations_eight_of_them_beat_the_start_by_sft_and_by_ditto(
    demonstrations: ModuleType, tmp_path: Path
) -> None:
    sample = demonstrations.measured(1, held_out=48, arms=("sft", "sft_short", "ditto_short"))
    assert sample["sft"] > 0.6
    assert sample["ditto_short"] > 0.6
    assert 0.2 < sample["ditto_short_against_sft"] < 0.8
    assert "spin" not in sample
    demonstrations.draw([sample], tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 1000
    assert demonstrations.summarised([sample, sample])["sft"]["mean"] == pytest.approx(sample["sft"])
