"""Write the models of an inferred reward into a directory of its own, which outlives its campaign's."""

import os
import shutil
from pathlib import Path

from components.artifacts import MANIFEST, write_json
from components.judges.inferred_reward_directory import REWARD, SavedReward
from components.records import InferRewardRequest, ModelRef

START, POLICY, BASE = "start", "policy", "base"
NOT_OF_THE_MODEL = (MANIFEST, "*.md", "metrics.jsonl", "plots")


def save_reward(request: InferRewardRequest, out: Path) -> None:
    """Write both models and `reward.json`.

    The files are linked where the disk allows it: published weights are replaced and never changed in place.
    """
    start = _saved(request.start, out, base=START, adapter=f"{START}_adapter")
    if request.policy.adapter is None:
        policy = _saved(request.policy, out, base=POLICY, adapter=None)
    elif request.policy.base_digest == request.start.base_digest:
        _copy(request.policy.adapter, out / POLICY)
        policy = request.policy.model_copy(update={"base": START, "adapter": Path(POLICY), "revision": "main"})
    else:
        policy = _saved(request.policy, out, base=BASE, adapter=POLICY)
    reward = SavedReward(
        campaign=request.campaign,
        round=request.policy.round,
        policy=policy,
        start=start,
        limits=request.limits,
        beta=request.beta,
    )
    write_json(out / REWARD, reward.model_dump(mode="json"))


def _saved(ref: ModelRef, out: Path, *, base: str, adapter: str | None) -> ModelRef:
    _copy(Path(ref.base), out / base)
    if ref.adapter is not None and adapter is not None:
        _copy(ref.adapter, out / adapter)
        return ref.model_copy(update={"base": base, "adapter": Path(adapter), "revision": "main"})
    return ref.model_copy(update={"base": base, "revision": "main"})


def _copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target, copy_function=_link, ignore=shutil.ignore_patterns(*NOT_OF_THE_MODEL))


def _link(source: str, target: str) -> None:
    # A hub's cache holds links to its files.
    real = os.path.realpath(source)
    try:
        os.link(real, target)
    except OSError:  # another file system, or one without hard links
        shutil.copy2(real, target)
