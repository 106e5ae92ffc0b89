"""The violations of the pairs' answers by the user's function: each belongs to its own answer."""

import json
from pathlib import Path

import pandas as pd
import pytest

from components.config import ConstraintsConfig
from components.data.messages import format_messages
from components.dpo.batches import read_pairs
from components.dpo.judged_violations import with_violations
from components.dpo.responses import Sides
from components.validation.semantics import TOKEN_COLUMNS

ASK = format_messages([{"role": "user", "content": "q"}])


def table(*rows: tuple[str | None, str | None, str | None]) -> pd.DataFrame:
    """Rows of chosen, rejected and their prompt's columns, labelled from 10 on, as a filtered table is."""
    texts = {"prompt": ASK, "chosen": [row[0] for row in rows], "rejected": [row[1] for row in rows]}
    tokens = {name: [[1]] * len(rows) for name in TOKEN_COLUMNS}
    for side in ("chosen", "rejected"):
        tokens[f"{side}_ids"] = [[] if text is None else [2] for text in texts[side]]
    columns = {"columns": [row[2] for row in rows], "p": 1.0, "prompt_id": "p", "tag": "t", "weight": 1.0}
    return pd.DataFrame(texts | columns | tokens, index=range(10, 10 + len(rows)))


@pytest.fixture
def constraints(tmp_path: Path) -> ConstraintsConfig:
    file = tmp_path / "rules.py"
    file.write_text(
        "def leaks(response, secret=None):\n"
        "    if response == 'bad': return 1.5\n"
        "    if response == 'none': return None\n"
        "    return secret in response if secret else len(response) / 10\n"
    )
    return ConstraintsConfig(function=f"{file}:leaks", memory_limit_gb=1)


def test_violations_belong_to_their_answers_through_tables_and_sides(
    constraints: ConstraintsConfig, tmp_path: Path
) -> None:
    secret = json.dumps({"secret": "x"})
    train = table(("a", "bbb", "{}"), ("cc", "x marks", secret), ("dd", None, None), (None, "none", None))
    held = table(("eeee", "f", "{}"))
    both = with_violations([train, held], constraints, scratch=tmp_path)
    pairs, (other,) = (read_pairs(each, source="t") for each in both)
    assert [pair.violations for pair in pairs] == [(0.1, 0.3), (0.0, 1.0), (0.2, 0.0), (0.0, 0.0)]
    assert other.violations == (0.4, 0.1)
    # All chosen answers come first, then all rejected ones; the third pair has no rejected, the fourth no chosen.
    assert Sides(pairs).violations == [0.1, 0.0, 0.2, 0.3, 1.0, 0.0]
    assert [pair.violations for pair in read_pairs(train, source="t")] == [(0.0, 0.0)] * 4


def test_a_function_that_fails_on_an_answer_stops_the_training(constraints: ConstraintsConfig, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError,
        match=r"rules.py:leaks failed on 1 of 4 answers of the pairs \(the first is rejected of row 1: it "
        r"returned 1.5, but a violation is in \[0, 1\]\): correct the function and start again",
    ):
        with_violations([table(("a", "b", "{}"), ("c", "bad", "{}"))], constraints, scratch=tmp_path)


def test_without_a_function_the_tables_stay_as_they_are(tmp_path: Path) -> None:
    pairs = table(("a", "b", "{}"))
    assert with_violations([pairs], ConstraintsConfig(max_tokens=3), scratch=tmp_path) == [pairs]
