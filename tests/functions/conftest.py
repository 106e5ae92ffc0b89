"""A file of functions as a user writes them, and responses to score."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.config import CallLimits, FunctionConfig
from components.functions.process import Score
from components.functions.scoring import Sample, score

LIMITS = CallLimits(time_limit_seconds=20, memory_limit_gb=1)
Run = Callable[..., list[Score]]


def samples(*texts: str, columns: dict[str, Any] | None = None, prompt: str = "q", group: int = 0) -> list[Sample]:
    messages = [{"role": "user", "content": prompt}]
    return [Sample(messages, text, columns or {}, (len(text), 9), group) for text in texts]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Score samples by a function whose source is given."""

    def scored(source: str, given: list[Sample], limits: CallLimits = LIMITS, **settings: Any) -> list[Score]:
        file = tmp_path / "rewards.py"
        file.write_text(source)
        function = FunctionConfig(function=f"{file}:f", **settings)
        (scores,) = score(given, [function], limits, scratch=tmp_path / "scratch")
        return scores

    return scored
