"""Outcomes with round numbers, whose means and differences are known by hand."""

from collections.abc import Callable, Sequence

import pytest

from components.config import StudyConfig
from components.study.outcomes import Outcome, Point

Make = Callable[..., Outcome]


@pytest.fixture
def make_outcome() -> Make:
    """An outcome of a campaign whose rounds reached these (reward, KL, win rate), all promoted unless told."""

    def make(
        arm: str,
        seed: int,
        reached: Sequence[tuple[float | None, float, float]],
        *,
        refused: Sequence[int] = (),
        tokens: int = 1000,
    ) -> Outcome:
        points = tuple(
            Point(
                round=number,
                promoted=number not in refused,
                reward=reward,
                kl=kl,
                win_rate=win_rate,
                tokens=20.0 + number,
            )
            for number, (reward, kl, win_rate) in enumerate(reached, 1)
        )
        scored = reached[0][0] is not None
        start = Point(round=0, promoted=False, reward=1.0 if scored else None, kl=0.0, win_rate=0.5, tokens=20.0)
        final = next((point for point in reversed(points) if point.promoted), start)
        return Outcome(
            arm=arm,
            seed=seed,
            campaign=f"methods.{arm}.seed-{seed}",
            points=points,
            final=final,
            start_reward=start.reward,
            generated_tokens=tokens,
            verdicts=100,
            seconds=60.0,
            peak_memory_bytes=2**30,
            measured_by={"start model": "a", "held-out prompts": "b", "evaluation judge": "c"},
        )

    return make


@pytest.fixture
def config() -> StudyConfig:
    """Two arms, three seeds."""
    arms = {"loop": {}, "offline": {"method": "offline", "change": {"training": {"loss": "ipo"}}}}
    return StudyConfig.model_validate({"study": "methods", "base": "demo.yaml", "arms": arms})
