"""`prompt_outcomes.parquet`: what became of each prompt, for the draw of later rounds. Knows no judge."""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from components.artifacts import write_table
from components.judges.protocol import Verdict, scores
from components.preferences.judged_pairs import Built
from components.preferences.labels import TIED

OUTCOME_TYPES = {"prompt_id": "str", "outcome": "str", "pairs": "int64", "tied_pairs": "int64", "mean_score": "float64"}


def write_outcomes(out: Path, built: Built, verdicts: Sequence[Verdict]) -> None:
    """Writes a row a prompt: its outcome, its pairs, those of them that are ties, and its responses' mean score (null without any)."""
    pairs = Counter(row["prompt_id"] for row in built.rows)
    tied = Counter(row["prompt_id"] for row in built.rows if row["p"] == TIED)
    given: defaultdict[str, list[float]] = defaultdict(list)
    for (prompt, _), score in scores(verdicts).items():
        given[prompt].append(score)
    means = {prompt: math.fsum(several) / len(several) for prompt, several in given.items()}
    rows = [(prompt, outcome, pairs[prompt], tied[prompt], means.get(prompt)) for prompt, outcome in built.outcomes.items()]
    write_table(out / "prompt_outcomes.parquet", pd.DataFrame(rows, columns=list(OUTCOME_TYPES)).astype(OUTCOME_TYPES))
