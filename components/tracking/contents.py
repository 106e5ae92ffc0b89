"""Collect what MLflow stores of a round beside its numbers: data sets, small files, the model directory and tables."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
from mlflow.entities import Dataset, DatasetInput, InputTag

from components.artifacts import read_json, read_table
from components.campaign.files import PEOPLE
from components.config import TrackingConfig
from components.records import Manifest
from components.tracking.facts import RoundFacts
from components.tracking.persons import nameless_report

PLOTS = "plots"
SAMPLES, COUNTS, QUARANTINED = "samples.json", "validation_counts.json", "quarantined_pairs.json"
_DIGEST_LIMIT = 36  # MLflow refuses longer dataset digests
_ARTIFACT_SUFFIXES = {".json", ".jsonl", ".png"}


def datasets(facts: RoundFacts) -> list[DatasetInput]:
    """Return the tables on which the round was trained and measured, with their content digests.

    A table without rows was not used and is left out.
    """
    data, start = facts.directory / "validate_data", facts.start_directory
    tables = [
        ("train pairs", "training", data / "train.parquet", facts.manifests["validate_data"]),
        ("eval pairs", "evaluation", data / "eval.parquet", facts.manifests["validate_data"]),
        ("held-out prompts", "held-out", start / "held_out_prompts.parquet", facts.start_manifest),
    ]
    return [
        _dataset(name, context, path, manifest)
        for name, context, path, manifest in tables
        if manifest.files[path.name].rows
    ]


def _dataset(name: str, context: str, path: Path, manifest: Manifest) -> DatasetInput:
    kinds = {"string": "string", "large_string": "string", "int64": "long", "double": "double", "bool": "boolean"}
    fields = [(field.name, kinds.get(str(field.type))) for field in pq.read_schema(path)]
    columns = [{"name": column, "type": kind, "required": False} for column, kind in fields if kind is not None]
    dataset = Dataset(
        name=name,
        digest=manifest.files[path.name].sha256[:_DIGEST_LIMIT],
        source_type="local",
        source=json.dumps({"uri": path.resolve().as_uri()}),
        schema=json.dumps({"mlflow_colspec": columns}),
        profile=json.dumps({"num_rows": manifest.files[path.name].rows}),
    )
    return DatasetInput(dataset, tags=[InputTag("mlflow.data.context", context)])


def artifacts(facts: RoundFacts) -> dict[str, bytes]:
    """Return the small files of the round by their path in it; all pictures are in one folder, where users look.

    What is known about people has numbers in place of their names.
    """
    files = [
        path
        for stage in facts.manifests
        for path in sorted((facts.directory / stage).rglob("*"))
        if path.suffix in _ARTIFACT_SUFFIXES and not {"model", "adapter"} & set(path.relative_to(facts.directory).parts)
    ]
    return {_place(facts, path): _content(path) for path in files}


def _content(path: Path) -> bytes:
    return json.dumps(nameless_report(read_json(path)), indent=1).encode() if path.name == PEOPLE else path.read_bytes()


def _place(facts: RoundFacts, path: Path) -> str:
    return f"{PLOTS}/{path.name}" if path.suffix == ".png" else str(path.relative_to(facts.directory))


def model_directory(facts: RoundFacts) -> Path | None:
    """Return the directory of the challenger's weights; None if it no longer exists."""
    candidates = [facts.directory / "dpo_train" / name for name in ("adapter", "model")]
    return next((path for path in candidates if path.is_dir()), None)


MAX_QUARANTINED = 200
"""Largest number of rows in the table of quarantined pairs; quarantine.parquet has all of them."""


def tables(facts: RoundFacts, tracking: TrackingConfig) -> dict[str, pd.DataFrame]:
    """Return the round's tables by the name of their file.

    MLflow's table over several runs has a row for each value of the first column, and compares the second.

    A round that quarantined nothing has no table of quarantined pairs. Without texts only the counts are left.
    """
    counts = {COUNTS: _counts(facts)}
    if not tracking.texts:
        return counts
    quarantined = _quarantined(facts)
    with_samples = {SAMPLES: _samples(facts)} | counts
    return with_samples if quarantined.empty else with_samples | {QUARANTINED: quarantined}


def as_json(table: pd.DataFrame) -> bytes:
    """Return a table in the form in which MLflow stores it."""
    return str(table.to_json(orient="split", index=False)).encode()


def _samples(facts: RoundFacts) -> pd.DataFrame:
    samples = read_table(facts.directory / "evaluate" / "samples.parquet")
    first = ["prompt", "challenger", "champion", "start"]
    return samples[[*first, *(column for column in samples.columns if column not in first)]]


def _counts(facts: RoundFacts) -> pd.DataFrame:
    counts = facts.files.read("validate_data", "validation.json")
    assert counts is not None, facts.directory
    total = counts["received"] + counts["replayed"]
    rows = [
        ("received", counts["received"], "from this round"),
        ("replayed", counts["replayed"], "from earlier rounds"),
        ("train", counts["train"], "trained on"),
        ("eval", counts["eval"], "measured on, never trained on"),
        ("quarantined", counts["quarantined"], "refused"),
        *(
            (reason, number, "reason to refuse; a pair may have several")
            for reason, number in counts["reasons"].items()
        ),
    ]
    with_shares = [
        (name, number, round(number / total, 4) if total else None, meaning) for name, number, meaning in rows
    ]
    return pd.DataFrame(with_shares, columns=["pairs", "number", "share", "meaning"])


def _quarantined(facts: RoundFacts) -> pd.DataFrame:
    pairs = read_table(facts.directory / "validate_data" / "quarantine.parquet").head(MAX_QUARANTINED)
    columns = ("prompt", "reason", "chosen", "rejected", "origin_round")
    table = pairs[[column for column in columns if column in pairs]].copy()
    return table.assign(prompt=[readable(prompt) for prompt in table["prompt"]]) if len(table) else table


def readable(prompt: Any) -> Any:
    """Return a prompt's messages as plain text.

    Return a value that is not a list of messages unchanged: that can be the reason why a pair was quarantined.
    """
    try:
        messages = [(message["role"], message["content"]) for message in json.loads(prompt)]
    except (TypeError, ValueError, KeyError):
        return prompt
    return messages[0][1] if len(messages) == 1 else "\n".join(f"{role}: {content}" for role, content in messages)
