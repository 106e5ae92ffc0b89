"""Find the model of a campaign's round: its weights, their base, and whether they were removed."""

from pathlib import Path
from typing import Any

from components.artifacts import read_json, read_record
from components.campaign.state import round_directory, start_directory
from components.records import Artifact, ModelRef, Record

COLLECTED = "collected.json"
MASTER = "master"
"""Directory of the fp32 masters beside a round's `model/` or `adapter/`."""


class CollectedWeights(Record):
    """Content of a round's collected.json: its weights were removed on purpose, to free disk space."""

    what: str
    """`model` or `adapter`."""
    digest: str
    """The policy's digest, which identifies the weights if they are restored."""
    num_bytes: int
    at: str
    """UTC time, ISO 8601."""
    mlflow_bytes: int | None = None
    """Bytes removed from the copy in MLflow; None while no copy was found or MLflow could not be reached."""


def model_of_round(directory: Path, round: int) -> ModelRef:
    """Return the model that a round trained; round 0 is the start model.

    Raises:
        ValueError: The round's weights were removed by `ratchet gc`, or do not exist.
    """
    pinned = start_directory(directory)
    start = ModelRef.model_validate(_published(directory, 0, pinned / "start.json")["model"])
    if not Path(start.base).is_absolute():
        start = start.model_copy(update={"base": str(pinned / start.base)})
    if round == 0:
        return start
    stage = round_directory(directory, round) / "dpo_train"
    trained = _published(directory, round, stage / "train.json")
    digest, weights = trained["policy_digest"], stage / trained["directory"]
    if not weights.is_dir():
        raise ValueError(_explain_missing(directory, round, weights))
    if weights.name == "adapter":
        base = model_of_round(directory, _round_of_base(directory, round, trained))
        return base.model_copy(update={"round": round, "adapter": weights, "digest": digest})
    return ModelRef(round=round, base=str(weights), base_round=round, base_digest=digest, digest=digest)


def master_of_round(directory: Path, round: int) -> Artifact | None:
    """Return the fp32 masters of the model that a round trained, whether or not they were removed since.

    None for the start model, for weights that are not rounded, and for a round that kept none.
    """
    if round == 0:
        return None
    stage = round_directory(directory, round) / "dpo_train"
    digest = _published(directory, round, stage / "train.json").get("master_digest")
    return None if digest is None else Artifact(path=stage / MASTER, digest=digest)


def _round_of_base(directory: Path, round: int, trained: dict[str, Any]) -> int:
    """Return the round whose full weights are the base of a round's adapter."""
    if "base_round" in trained:
        return int(trained["base_round"])
    # Earlier versions wrote only the digest of the policy that the round started from: the base is that policy, or the
    # policy's base.
    for earlier in range(round - 1, 0, -1):
        path = round_directory(directory, earlier) / "dpo_train" / "train.json"
        parent = read_json(path) if path.is_file() else {}
        if parent and parent["policy_digest"] == trained.get("start_digest"):
            return _round_of_base(directory, earlier, parent) if parent["directory"] == "adapter" else earlier
    return 0


def _published(directory: Path, round: int, path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(_explain_missing(directory, round, path))
    return read_json(path)


def collected_weights(directory: Path, round: int) -> CollectedWeights | None:
    """Read a round's collected.json; None if its weights were not removed to free disk space."""
    path = round_directory(directory, round) / COLLECTED
    return read_record(CollectedWeights, path) if path.exists() else None


def _explain_missing(directory: Path, round: int, missing: Path) -> str:
    problem = f"round {round} of campaign {directory.name} has no weights"
    collected = collected_weights(directory, round)
    if collected is not None:
        return f"{problem}: `ratchet gc` removed them at {collected.at}; choose a promoted round"
    return f"{problem}: {missing} does not exist; restore it or choose another round"
