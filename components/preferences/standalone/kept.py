"""Prompts, responses and verdicts of a judged round or of `ratchet collect`; pairs can be built from them again."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pyarrow as pa

from components.artifacts import read_table, write_table
from components.data.columns import COLUMNS, format_columns
from components.data.messages import format_messages
from components.judges.protocol import Group, Verdict, conclusions
from components.preferences.tables import VERDICTS, read_groups, read_verdicts

PROMPTS, RESPONSES = "prompts.parquet", "responses.parquet"
OF_A_ROUND = {PROMPTS: "generate_responses", RESPONSES: "generate_responses", VERDICTS: "collect_preferences"}
"""Stage of a campaign's round that publishes each file."""


class Judged(NamedTuple):
    """Prompts with their responses, and a judge's verdicts on them."""

    groups: list[Group]
    verdicts: list[Verdict]

    @property
    def judge(self) -> str:
        """Name of the judge whose conclusions these are; several names are joined by "and"."""
        return " and ".join(sorted({verdict.judge for verdict in conclusions(self.verdicts)}))


def write_groups(out: Path, groups: Sequence[Group]) -> None:
    """Write `prompts.parquet` and `responses.parquet` in a directory."""
    prompts = [(group.prompt_id, format_messages(group.messages)) for group in groups]
    responses = [(group.prompt_id, sample_id, text) for group in groups for sample_id, text in group.responses]
    table = pd.DataFrame(prompts, columns=["prompt_id", "messages"]).astype("str")
    if any(group.columns for group in groups):
        table[COLUMNS] = [format_columns(group.columns) for group in groups]
    write_table(out / PROMPTS, table)
    types = {"prompt_id": "str", "sample_id": "int64", "text": "str"}
    write_table(out / RESPONSES, pd.DataFrame(responses, columns=list(types)).astype(types))


def read_judged(directory: Path) -> Judged:
    """Read the output directory of `ratchet collect`, or a round of a campaign.

    Raises:
        ValueError: The directory is neither, or one of its files cannot be read.
    """
    paths = {name: _file(directory, name) for name in OF_A_ROUND}
    missing = [name for name, path in paths.items() if path is None]
    if missing:
        raise ValueError(
            f"{directory} has no verdicts ({', '.join(missing)} missing): "
            "name a directory that `ratchet collect` wrote, or a round of a campaign"
        )
    tables = {name: _read(path) for name, path in paths.items() if path is not None}
    judged = Judged(read_groups(tables[PROMPTS], tables[RESPONSES]), read_verdicts(tables[VERDICTS]))
    if not judged.verdicts:
        raise ValueError(f"{directory} has no verdicts, because its pairs came from a data set: name another round")
    return judged


def _file(directory: Path, name: str) -> Path | None:
    places = (directory / name, directory / OF_A_ROUND[name] / name)
    return next((path for path in places if path.is_file()), None)


def _read(path: Path) -> pd.DataFrame:
    try:
        return read_table(path)
    except (OSError, pa.ArrowException) as error:
        cause = str(error).splitlines()[0]
        raise ValueError(f"{path} cannot be read as Parquet ({cause}): run the command that wrote it again") from None
