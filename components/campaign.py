"""A campaign's state on disk: its rounds, its champion, its target, its configurations, its lock.

Computes nothing and loads no ML library. Who the champion is stands in campaign.json and nowhere else; all other places follow it.
"""

import contextlib
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from pydantic import ConfigDict, Field, ValidationError

from components.artifacts import read_json, write_json
from components.config import CampaignConfig, EndpointConfig, differences
from components.records import ModelRef, Record, RoundRecord

RUNS_VARIABLE = "RATCHET_RUNS"
CONFIG = "config.json"
REPLACED_CONFIG = "config-until-round-{:03d}.json"
COLLECTED = "collected.json"
FREE_TO_CHANGE = ("num_rounds", "budget")
"""What may differ between a campaign's starts, because no round's result depends on it."""


class CampaignBusy(Exception):
    """Another flow run works on the campaign; the message names it."""


class Champion(Record):
    """The best model that was promoted so far; round 0 is the start model."""

    round: int
    digest: str


class Rollback(Record):
    """People made an earlier champion the champion again."""

    model_config = ConfigDict(serialize_by_alias=True, validate_by_name=True)

    former: int = Field(alias="from")
    """Round of the champion that was put aside."""
    to: int
    """Round that is the champion again; 0 is the start model."""
    at: str
    """UTC time, ISO 8601."""
    after_round: int
    """The last round that was finished then: the next one is the first to start from the restored champion."""


class CollectedWeights(Record):
    """What a round's collected.json says: its weights were removed on purpose, to free disk."""

    what: str
    """`model` or `adapter`."""
    digest: str
    """The policy's digest, by which the weights would be known again."""
    num_bytes: int
    at: str
    """UTC time, ISO 8601."""
    mlflow_bytes: int | None = None
    """Bytes of the copy in MLflow that were removed; None while no copy was found, or MLflow could not be reached."""


class State(Record):
    """What campaign.json holds."""

    campaign: str
    champion: Champion
    target: int | None = None
    """The round that an unfinished start goes to; None when nothing is open."""
    rounds: tuple[RoundRecord, ...] = ()
    rollbacks: tuple[Rollback, ...] = ()
    """Oldest first."""

    @property
    def last_round(self) -> int:
        """The last finished round; 0 before the first."""
        return self.rounds[-1].round if self.rounds else 0

    def champion_before(self, round: int) -> int:
        """The round whose model a round started from and was compared with; 0 is the start model."""
        moves = [(record.round, 0, record.round) for record in self.rounds if record.promoted]
        moves += [(rollback.after_round, order, rollback.to) for order, rollback in enumerate(self.rollbacks, 1)]
        return max((move for move in moves if move[0] < round), default=(0, 0, 0))[2]


def runs_directory() -> Path:
    """Where campaigns lie: the environment's RATCHET_RUNS, else `runs` below the current directory."""
    return Path(os.environ.get(RUNS_VARIABLE, "runs")).absolute()


def campaign_directory(campaign: str) -> Path:
    """The directory of a campaign, whether it exists or not."""
    return runs_directory() / campaign


def round_directory(directory: Path, round: int) -> Path:
    """The directory of a round's stages."""
    return directory / f"round-{round:03d}"


def read_state(directory: Path) -> State | None:
    """Reads campaign.json; None before the first start has pinned the start model.

    Raises:
        ValueError: The file is damaged.
    """
    path = directory / "campaign.json"
    if not path.exists():
        return None
    try:
        return State.model_validate_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({str(error).splitlines()[0]}): restore it, or move the campaign's directory away") from None


def known_campaigns() -> list[str]:
    """Names of all campaigns that have begun, in order."""
    return sorted(path.parent.name for path in runs_directory().glob("*/campaign.json"))


def known_state(campaign: str) -> State:
    """Reads the state of a campaign that must exist.

    Raises:
        ValueError: There is no such campaign; the message names those that there are.
    """
    state = read_state(campaign_directory(campaign))
    if state is None:
        known = known_campaigns()
        raise ValueError(
            f"no campaign {campaign} under {runs_directory()}: {'known: ' + ', '.join(known) if known else 'none has run yet'}"
        )
    return state


def write_state(directory: Path, state: State) -> None:
    """Replaces campaign.json atomically."""
    write_json(directory / "campaign.json", state)


def refuse_changes(directory: Path, config: CampaignConfig) -> None:
    """Compares a configuration with the one the campaign began with, but for what is free to change.

    Raises:
        ValueError: They differ; the message says where and how to go on.
    """
    changed = _changes(directory, config)
    if changed:
        raise ValueError(
            f"campaign {config.campaign} began with another config ({'; '.join(changed)}): change it back, choose another campaign name, "
            "or pass --accept-changes to go on with the new one"
        )


def pin_config(directory: Path, config: CampaignConfig, *, accept_changes: bool) -> None:
    """Writes the resolved configuration the first time, and again when a change of it is accepted.

    Raises:
        ValueError: It changed, and `accept_changes` is false.
    """
    if not accept_changes:
        refuse_changes(directory, config)
    if not (directory / CONFIG).exists():
        write_json(directory / CONFIG, config.model_dump(mode="json"))
    elif _changes(directory, config):
        _keep_config(directory)
        write_json(directory / CONFIG, config.model_dump(mode="json"))


def _keep_config(directory: Path) -> None:
    """Sets the configuration of the finished rounds aside. One that is there already is theirs: no round ran between two changes."""
    state = read_state(directory)
    kept = directory / REPLACED_CONFIG.format(state.last_round if state else 0)
    if state and state.rounds and not kept.exists():
        write_json(kept, read_json(directory / CONFIG))


def config_of_round(directory: Path, round: int) -> dict[str, Any]:
    """The resolved configuration under which a round ran: the first one that was replaced after it, else the present one."""
    replaced = {int(path.stem.rpartition("-")[2]): path for path in directory.glob("config-until-round-*.json")}
    later = [last for last in replaced if last >= round]
    return read_json(replaced[min(later)] if later else directory / CONFIG)


def _changes(directory: Path, config: CampaignConfig) -> list[str]:
    if not (directory / CONFIG).exists():
        return []
    new = config.model_dump(mode="json")
    return differences(_fixed(_resolved(read_json(directory / CONFIG)) | {key: new[key] for key in FREE_TO_CHANGE}), _fixed(new))


def _fixed(written: Any) -> Any:
    """A configuration without what its endpoints are free to change, wherever in it they stand."""
    if isinstance(written, list):
        return [_fixed(item) for item in written]
    if not isinstance(written, dict):
        return written
    kept = {key: _fixed(value) for key, value in written.items()}
    if isinstance(kept.get("endpoint"), dict):
        kept["endpoint"] = {name: value for name, value in kept["endpoint"].items() if name not in EndpointConfig.FREE_TO_CHANGE}
    return kept


def _resolved(written: dict[str, Any]) -> dict[str, Any]:
    """A configuration that an earlier version wrote, with the knobs that are new since then at their defaults."""
    try:
        return CampaignConfig.model_validate(written).model_dump(mode="json")
    except ValidationError:  # a knob that is no more: comparing names it
        return written


def open_target(state: State, num_rounds: int) -> int:
    """The round a start goes to: the open target of a start that did not finish, else `num_rounds` beyond the last round."""
    return state.last_round + num_rounds if state.target is None else state.target


def with_round(state: State, record: RoundRecord) -> State:
    """The state with a finished round, which is the champion if it is new and was promoted.

    A round that is known already moves nothing: the champion may be another since, by a later round or by a rollback.
    """
    new = all(known.round != record.round for known in state.rounds)
    rounds = [*(known for known in state.rounds if known.round != record.round), record]
    champion = Champion(round=record.round, digest=record.policy_digest) if new and record.promoted else state.champion
    return state.model_copy(update={"rounds": tuple(sorted(rounds, key=lambda known: known.round)), "champion": champion})


def finish_round(directory: Path, record: RoundRecord) -> State:
    """Adds a finished round to campaign.json, and moves the champion if it was promoted. Adding it again moves nothing."""
    state = read_state(directory)
    assert state is not None
    state = with_round(state, record)
    write_state(directory, state)
    return state


def note_mlflow_run(directory: Path, round: int, run_id: str) -> None:
    """Writes where MLflow has a finished round into campaign.json, and changes nothing else of it."""
    state = read_state(directory)
    assert state is not None
    rounds = tuple(known.model_copy(update={"mlflow_run_id": run_id}) if known.round == round else known for known in state.rounds)
    write_state(directory, state.model_copy(update={"rounds": rounds}))


def model_of_round(directory: Path, round: int) -> ModelRef:
    """Names the model that a round trained; round 0 is the start model.

    Raises:
        ValueError: The round's weights were collected, or are gone.
    """
    pinned = round_directory(directory, 0) / "start"
    start = ModelRef.model_validate(_published(directory, 0, pinned / "start.json")["model"])
    if not Path(start.base).is_absolute():
        start = start.model_copy(update={"base": str(pinned / start.base)})
    if round == 0:
        return start
    stage = round_directory(directory, round) / "dpo_train"
    trained = _published(directory, round, stage / "train.json")
    digest, weights = trained["policy_digest"], stage / trained["directory"]
    if not weights.is_dir():
        raise ValueError(_why_gone(directory, round, weights))
    if weights.name == "adapter":
        base = model_of_round(directory, _round_of_base(directory, round, trained))
        return base.model_copy(update={"round": round, "adapter": weights, "digest": digest})
    return ModelRef(round=round, base=str(weights), base_round=round, base_digest=digest, digest=digest)


def _round_of_base(directory: Path, round: int, trained: dict[str, Any]) -> int:
    """The round whose full weights a round's adapter stands on."""
    if "base_round" in trained:
        return int(trained["base_round"])
    # Earlier versions wrote only the digest of the policy that the round started from: the base is that policy, or the policy's base.
    for earlier in range(round - 1, 0, -1):
        path = round_directory(directory, earlier) / "dpo_train" / "train.json"
        before = read_json(path) if path.is_file() else {}
        if before and before["policy_digest"] == trained.get("start_digest"):
            return _round_of_base(directory, earlier, before) if before["directory"] == "adapter" else earlier
    return 0


def _published(directory: Path, round: int, path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(_why_gone(directory, round, path))
    return read_json(path)


def collected_weights(directory: Path, round: int) -> CollectedWeights | None:
    """Reads what was written when a round's weights were removed to free disk; None where that was not done."""
    path = round_directory(directory, round) / COLLECTED
    return CollectedWeights.model_validate(read_json(path)) if path.exists() else None


def _why_gone(directory: Path, round: int, missing: Path) -> str:
    collected = collected_weights(directory, round)
    if collected is not None:
        return f"round {round} of campaign {directory.name} has no weights: gc collected them at {collected.at}; name a promoted round"
    return f"round {round} of campaign {directory.name} has no weights: {missing} is gone; restore it, or name another round"


@contextlib.contextmanager
def locked(directory: Path, **holder: Any) -> Iterator[dict[str, Any]]:
    """Holds the campaign's lock; the kernel lets go of it when the process ends, however it ends.

    Yields:
        What the holder before wrote about itself: who it was, `since` when and, if it ended in order, `until` when it worked.

    Raises:
        CampaignBusy: Somebody else holds it. Raised within the block, it leaves no trace of this holder.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise CampaignBusy(f"campaign {directory.name} is worked on by {_describe_holder(file.read())}") from None
        file.seek(0)
        before = _holder(file.read())
        mine = {"pid": os.getpid(), "host": socket.gethostname(), "since": _now(), **holder}
        _replace(file, mine)
        try:
            yield before
        except CampaignBusy:
            _replace(file, before)
            raise
        except BaseException:
            _replace(file, mine | {"until": _now()})
            raise
        _replace(file, mine | {"until": _now()})


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _replace(file: TextIO, holder: dict[str, Any]) -> None:
    file.truncate(0)
    file.write(json.dumps(holder))
    file.flush()


def _holder(content: str) -> dict[str, Any]:
    try:
        return dict(json.loads(content))
    except ValueError:
        return {}


def _describe_holder(content: str) -> str:
    return ", ".join(f"{name} {value}" for name, value in _holder(content).items()) or "another process that is just starting"
