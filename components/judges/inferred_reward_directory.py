"""A reward that a campaign inferred, on disk: what it is made of, and whether it can judge. Loads no torch."""

from collections.abc import Sequence
from pathlib import Path

from components.artifacts import read_record
from components.config import JudgeSettings, PolicyConfig
from components.data.messages import Messages
from components.models.directory import check_model_directory
from components.records import ModelRef, VersionedRecord

REWARD = "reward.json"


class SavedReward(VersionedRecord):
    """Content of reward.json; the paths of the models are relative to it."""

    campaign: str
    round: int
    """Round whose model the policy is."""
    policy: ModelRef
    start: ModelRef
    limits: PolicyConfig
    """Precision, limits on tokens, and what the chat template reads."""
    beta: float
    """Reward in nats of the log-ratio."""


def read_saved(config: JudgeSettings) -> SavedReward:
    """Return the configured reward, with the paths of its models absolute.

    Raises:
        ValueError: The directory is missing or incomplete; one line with the remedy.
    """
    directory = Path(config.model).expanduser()
    if not (directory / REWARD).is_file():
        raise ValueError(
            f"judge.model {config.model} is not an inferred reward (it has no {REWARD}): name the directory that "
            "`ratchet infer-reward` wrote"
        )
    saved = read_record(SavedReward, directory / REWARD)
    policy, start = (_absolute(ref, directory.absolute()) for ref in (saved.policy, saved.start))
    for ref in (policy, start):
        check_model_directory(Path(ref.base))
        if ref.adapter is not None and not any(ref.adapter.glob("*.safetensors")):
            raise ValueError(f"judge.model {config.model} has no weights in {ref.adapter}: infer the reward again")
    return saved.model_copy(update={"policy": policy, "start": start})


def check(config: JudgeSettings, prompts: Sequence[Messages]) -> None:
    """Check that the configured reward exists and can judge.

    Raises:
        ValueError: As `read_saved`.
    """
    read_saved(config)


def _absolute(ref: ModelRef, directory: Path) -> ModelRef:
    adapter = None if ref.adapter is None else directory / ref.adapter
    return ref.model_copy(update={"base": str(directory / ref.base), "adapter": adapter})
