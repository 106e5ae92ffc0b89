"""`verdicts.parquet`: every raw verdict, as written and as read, and the limit on those that are invalid."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from components.artifacts import write_table
from components.judges.protocol import Verdict
from components.records import JudgeUnavailable

VERDICTS = "verdicts.parquet"
VERDICT_TYPES = {
    "verdict_id": "str",
    "prompt_id": "str",
    "sample_id": "Int64",
    "opponent_id": "Int64",
    "score": "float64",
    "status": "str",
    "judge": "str",
    "detail": "str",
    "part": "str",
}


def write_verdicts(out: Path, verdicts: Iterable[Verdict]) -> None:
    """Writes `verdicts.parquet` in a directory: conclusions, and what they were made from."""
    rows = [asdict(verdict) for verdict in verdicts]
    write_table(out / VERDICTS, pd.DataFrame(rows, columns=list(VERDICT_TYPES)).astype(VERDICT_TYPES))


def read_verdicts(table: pd.DataFrame) -> list[Verdict]:
    """The verdicts of a table as they were written."""
    plain = table[list(VERDICT_TYPES)].astype(object)
    return [Verdict(*row) for row in plain.where(plain.notna(), None).itertuples(index=False)]


def conclusions(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """The verdicts that are no part of another."""
    return [verdict for verdict in verdicts if not verdict.part]


def check_invalid_share(judge: str, verdicts: Iterable[Verdict], limit: float) -> None:
    """Stops a round whose judge gives no usable verdicts.

    Args:
        judge: The judge's name.
        verdicts: What it said; conclusions count.
        limit: Share of invalid conclusions that is allowed, in [0, 1].

    Raises:
        JudgeUnavailable: There are no verdicts, or too many are invalid.
    """
    concluded: Sequence[Verdict] = conclusions(verdicts)
    invalid = [verdict for verdict in concluded if verdict.status == "invalid"]
    if not concluded:
        raise JudgeUnavailable(f"judge {judge} gave no verdicts: there were no responses to judge")
    share = len(invalid) / len(concluded)
    if share > limit:
        detail, count = Counter(verdict.detail for verdict in invalid).most_common(1)[0]
        raise JudgeUnavailable(
            f"judge {judge}: {len(invalid)} of {len(concluded)} verdicts ({share:.1%}) are invalid, more than "
            f"preferences.max_invalid_share = {limit}; {count} times: {detail}"
        )
