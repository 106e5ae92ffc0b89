"""What a configuration takes from the hub, and the commits at which a campaign has it."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from components.config import BUILTIN, CampaignConfig, JudgeSettings
from components.data.rows import LOCAL_PREFIXES, is_on_hub
from components.records import HubCommit

COMMIT = re.compile(r"[0-9a-f]{40}")


class HubName(NamedTuple):
    """A model or data set of the hub that a configuration names."""

    key: str
    """The configuration's key that holds the revision."""
    name: str
    revision: str
    kind: str
    """`model` or `dataset`."""


def hub_names(config: CampaignConfig) -> Iterator[HubName]:
    """Yield everything that a campaign takes from the hub."""
    policy, prompts, preferences = config.policy, config.prompts, config.preferences
    if _is_hub_model(policy.model):
        yield HubName("policy.revision", policy.model, policy.revision, "model")
    sources = {
        "prompts.train_revision": (prompts.train, prompts.train_revision),
        "prompts.held_out_revision": (prompts.held_out, prompts.held_out_revision),
        "preferences.seed_pairs_revision": (preferences.seed_pairs, preferences.seed_pairs_revision),
        "preferences.demonstrations_revision": (preferences.demonstrations, preferences.demonstrations_revision),
    }
    for key, (source, revision) in sources.items():
        if source not in ("", BUILTIN) and is_on_hub(source):
            yield HubName(key, source, revision or "main", "dataset")
    judges = {"judge": config.judge, "evaluation_judge": config.evaluation_judge, "active.judge": config.active.judge}
    judges |= {"holdout_judge": config.holdout_judge} if config.holdout_judge else {}
    for place, judge in judges.items():
        jurors = {f"{place}.jurors.{number}": juror for number, juror in enumerate(judge.jurors)}
        each: dict[str, JudgeSettings] = {place: judge, **jurors}
        for inner, settings in each.items():
            if _is_hub_model(settings.model):
                yield HubName(f"{inner}.revision", settings.model, settings.revision, "model")


def _is_hub_model(model: str) -> bool:
    return model not in ("", BUILTIN) and not model.startswith(LOCAL_PREFIXES) and not Path(model).is_dir()


def commits_of(config: CampaignConfig, pinned: Mapping[str, Any] | None) -> dict[str, HubCommit]:
    """Return the commit of everything that the configuration takes from the hub.

    Args:
        config: The configuration.
        pinned: `start.json` of the campaign; None before its first start. What it names stays at the commit there.
    """
    if pinned is not None and "commits" not in pinned:
        return {}  # an earlier version began the campaign, and its keys hold the revision as it was written
    known = {} if pinned is None else {key: HubCommit.model_validate(each) for key, each in pinned["commits"].items()}
    commits = {}
    for key, name, revision, kind in hub_names(config):
        before = known.get(key)
        same = before is not None and (before.name, before.revision) == (name, revision)
        commits[key] = (
            before
            if before is not None and same
            else HubCommit(name=name, revision=revision, commit=_commit(name, revision, kind))
        )
    return commits


def at_commits(config: CampaignConfig, commits: Mapping[str, HubCommit]) -> CampaignConfig:
    """Return the configuration with each revision of the hub at its commit, as far as it is known."""
    for key, each in commits.items():
        if each.commit is not None:
            config = _with_value(config, key.split("."), each.commit)
    return config


def _with_value(section: Any, place: list[str], value: str) -> Any:
    name, *rest = place
    if isinstance(section, tuple):
        changed = _with_value(section[int(name)], rest, value)
        return tuple(changed if number == int(name) else each for number, each in enumerate(section))
    inner = _with_value(getattr(section, name), rest, value) if rest else value
    return section.model_copy(update={name: inner})


def _commit(name: str, revision: str, kind: str) -> str | None:
    """Return the commit of a revision: the hub's, else that of the copy in the cache; None if neither is known."""
    if COMMIT.fullmatch(revision):
        return revision
    from huggingface_hub import HfApi, constants

    try:
        sha = HfApi().repo_info(name, revision=revision, repo_type=kind, timeout=15.0).sha
    except Exception:
        # Without a network a model is loaded from the cache; a name that is nowhere is told when it is loaded.
        entry = Path(constants.HF_HUB_CACHE) / f"{kind}s--{name.replace('/', '--')}" / "refs" / revision
        return entry.read_text().strip() if kind == "model" and entry.is_file() else None
    return str(sha) if sha else None
