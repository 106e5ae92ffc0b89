"""What a round leaves that is kept in MLflow beside its numbers and tables: data sets, small files, the model directory."""

import json
from pathlib import Path

import pyarrow.parquet as pq
from mlflow.entities import Dataset, DatasetInput, InputTag

from components.records import Manifest
from components.tracking.facts import RoundFacts, read_manifest, round_directory

PLOTS = "plots"
_DIGEST_LIMIT = 36  # MLflow refuses longer dataset digests
_ARTIFACT_SUFFIXES = {".json", ".jsonl", ".png"}


def datasets(facts: RoundFacts) -> list[DatasetInput]:
    """The tables that the round trained and measured on, under their content digests; a table with no rows was not used."""
    data, start = facts.directory / "validate_data", round_directory(facts.campaign_dir, 0) / "start"
    start_manifest, _ = read_manifest(start)
    tables = [
        ("train pairs", "training", data / "train.parquet", facts.manifests["validate_data"]),
        ("eval pairs", "evaluation", data / "eval.parquet", facts.manifests["validate_data"]),
        ("held-out prompts", "held-out", start / "held_out_prompts.parquet", start_manifest),
    ]
    return [_dataset(name, context, path, manifest) for name, context, path, manifest in tables if manifest.files[path.name].rows]


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
    """Small files of the round by their place in it; the pictures together in one folder, where whoever looks at the run finds them."""
    files = [
        path
        for stage in facts.manifests
        for path in sorted((facts.directory / stage).rglob("*"))
        if path.suffix in _ARTIFACT_SUFFIXES and not {"model", "adapter"} & set(path.relative_to(facts.directory).parts)
    ]
    return {_place(facts, path): path.read_bytes() for path in files}


def _place(facts: RoundFacts, path: Path) -> str:
    return f"{PLOTS}/{path.name}" if path.suffix == ".png" else str(path.relative_to(facts.directory))


def model_directory(facts: RoundFacts) -> Path | None:
    """The challenger's weights as this round trained them, or None when they are no longer there."""
    candidates = [facts.directory / "dpo_train" / name for name in ("adapter", "model")]
    return next((path for path in candidates if path.is_dir()), None)
