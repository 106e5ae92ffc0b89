"""Check everything that a reward model is made from, before the first file is written."""

from pathlib import Path

from transformers import AutoConfig

from components.artifacts import MANIFEST
from components.config import RewardModelConfig
from components.judges.reward_model_directory import longest_read
from components.models.loading import load_tokenizer
from components.records import Artifact, RewardModelRequest
from components.reward_model.model import base_ref
from components.reward_model.pairs import prepare_pairs, read_pair_table


def check_place(directory: Path) -> None:
    """Check that a reward model may be written into a folder.

    Raises:
        ValueError: It is a file, or holds a `reward_model` that was not made here and would be replaced.
    """
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"{directory} is a file: name a folder, in which reward_model/ appears")
    target = directory / "reward_model"
    if target.exists() and not (target / MANIFEST).is_file():
        raise ValueError(f"{target} exists and was not made by this command: name another folder")


def prepare_request(
    pairs: str, *, split: str, base: str, revision: str, settings: RewardModelConfig
) -> RewardModelRequest:
    """Pin pairs and base model by their content, after the checks that the training makes.

    Args:
        pairs: Source of the pairs, as for `read_pair_table`.
        split: Split of a data set with splits.
        base: Directory, hub name or `builtin`.
        revision: Hub revision of the base.
        settings: Settings of the training.

    Raises:
        ValueError: Something cannot be used; one line that names it and the remedy.
    """
    read = read_pair_table(pairs, split=split)
    model = base_ref(base, revision=revision)
    longest = longest_read(AutoConfig.from_pretrained(model.base, trust_remote_code=False), settings.max_tokens)
    prepare_pairs(read, load_tokenizer(model), settings, max_tokens=longest)
    return RewardModelRequest(
        base=model, pairs=Artifact(path=Path(pairs), digest=read.digest), split=split, settings=settings
    )
