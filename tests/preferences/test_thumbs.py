import math
from typing import Any

import pandas as pd
import pytest

from components.config import PreferencesConfig
from components.feedback.stage import TYPES
from components.preferences.thumbs import ThumbRows, thumb_rows

PROMPT = '[{"role": "user", "content": "Hello"}]'


def table(*rows: dict[str, Any]) -> pd.DataFrame:
    filled = [
        {"row_id": f"r{number}", "prompt": PROMPT, "response": "Hi.", "thumb": "up", "served": True} | row
        for number, row in enumerate(rows)
    ]
    return pd.DataFrame(filled, columns=list(TYPES)).astype(TYPES)


def built(*rows: dict[str, Any], noise: float = 0.0, system_prompt: str = "") -> ThumbRows:
    preferences = PreferencesConfig.model_validate({"pairs": "unpaired", "feedback": {"use": "only", "noise": noise}})
    return thumb_rows(table(*rows), preferences, system_prompt=system_prompt)


def test_thumbs_are_single_responses_and_corrections_are_pairs() -> None:
    up, down, correction = built(
        {"response": "good"}, {"response": "bad", "thumb": "down"}, {"response": "meh", "correction": "best"}
    ).rows
    assert (up["chosen"], up["rejected"]) == ("good", None)
    assert (down["chosen"], down["rejected"]) == (None, "bad")
    assert (correction["chosen"], correction["rejected"]) == ("best", "meh")
    assert {row["p"] for row in (up, down, correction)} == {1.0}
    assert correction["verdict_ids"] == ["r2"]
    assert correction["judge"] == "users"


def test_thumbs_on_one_answer_are_one_row_by_their_majority() -> None:
    thumbs = built(*[{}] * 3, {"thumb": "down"}, {"response": "other", "thumb": "down"})
    assert [(row["chosen"], row["rejected"]) for row in thumbs.rows] == [("Hi.", None), (None, "other")]
    assert thumbs.rows[0]["verdict_ids"] == ["r0", "r1", "r2", "r3"]
    tied = built({}, {"thumb": "down"})
    assert tied.rows == []
    assert tied.outcomes == ["ties"]
    assert tied.step.left_out[0].count == 1


@pytest.mark.parametrize(("votes", "p"), [(1, 0.8), (2, 0.64 / (0.64 + 0.04)), (3, 0.512 / (0.512 + 0.008))])
def test_thumbs_with_noise_have_the_probability_of_their_majority(votes: int, p: float) -> None:
    (row,) = built(*[{}] * votes, noise=0.2).rows
    assert math.isclose(row["p"], p)


def test_thumbs_in_quarantine_are_left_out_and_the_system_prompt_leads() -> None:
    thumbs = built({"reason": "secrets: key", "prompt": None}, {}, system_prompt="Be kind.")
    (row,) = thumbs.rows
    assert row["prompt"].startswith('[{"role": "system", "content": "Be kind."}')
