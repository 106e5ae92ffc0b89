"""Read and write a campaign's state on disk: its rounds, its champion and its target.

Computes nothing and loads no ML library. campaign.json alone decides which round is the champion; all other places
follow it.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field

from components.artifacts import as_record, read_json, write_json
from components.records import ChampionDoubted, NewerVersion, Record, RoundRecord, VersionedRecord

RUNS_VARIABLE = "RATCHET_RUNS"
REPLACED_START = "start-until-round-{}"
REMEDY = "restore it or move the campaign's directory away"


class Champion(Record):
    """The best model promoted so far; round 0 is the start model."""

    round: int
    digest: str


class Rollback(Record):
    """A user made an earlier champion the champion again."""

    model_config = ConfigDict(serialize_by_alias=True, validate_by_name=True)

    former: int = Field(alias="from")
    """Round of the champion that was replaced."""
    to: int
    """Round that is the champion again; 0 is the start model."""
    at: str
    """UTC time, ISO 8601."""
    after_round: int
    """Last finished round at that time; the next round is the first to start from the restored champion."""


class State(VersionedRecord):
    """Content of campaign.json."""

    campaign: str
    id: str | None = None
    """Random name of the campaign, which tells it from others with its name; None if an earlier version wrote this."""
    champion: Champion
    target: int | None = None
    """Last round of an unfinished start; None if no start is open."""
    rounds: tuple[RoundRecord, ...] = ()
    rollbacks: tuple[Rollback, ...] = ()
    """Oldest first."""
    accepted_audits: tuple[int, ...] = Field(default=(), exclude_if=lambda rounds: not rounds)
    """Rounds whose audits a user accepted although they contradict the promotions."""
    sha256: str | None = Field(default=None, exclude_if=lambda sha256: sha256 is None)
    """Digest of the rest of the file, so that no damage goes unseen; None in memory, and if an earlier version wrote
    this."""

    @property
    def last_round(self) -> int:
        """The last finished round; 0 before the first."""
        return self.rounds[-1].round if self.rounds else 0

    @property
    def doubt(self) -> tuple[int, str] | None:
        """Round of an audit that contradicts the promotions, and what it found; None if none does, or a user acted.

        A user acts on it by accepting it, or by a rollback.
        """
        acted = max((rollback.after_round for rollback in self.rollbacks), default=0)
        for record in reversed(self.rounds):
            found = record.audit.contradictions if record.audit is not None else ()
            if found and record.round > acted and record.round not in self.accepted_audits:
                return record.round, "; ".join(found)
        return None

    def champion_before(self, round: int) -> int:
        """Return the round whose model a round started from and was compared with; 0 is the start model."""
        moves = [(record.round, 0, record.round) for record in self.rounds if record.promoted]
        moves += [(rollback.after_round, order, rollback.to) for order, rollback in enumerate(self.rollbacks, 1)]
        return max((move for move in moves if move[0] < round), default=(0, 0, 0))[2]


def runs_directory() -> Path:
    """Return the directory of all campaigns: RATCHET_RUNS, else `runs` in the current directory."""
    return Path(os.environ.get(RUNS_VARIABLE, "runs")).absolute()


def campaign_directory(campaign: str) -> Path:
    """Return the directory of a campaign, whether it exists or not."""
    return runs_directory() / campaign


def round_directory(directory: Path, round: int) -> Path:
    """Return the directory of a round's stages."""
    return directory / f"round-{round:03d}"


def start_directory(directory: Path, round: int | None = None) -> Path:
    """Return what round 0 published: the start model, the judges and the prompts.

    Args:
        directory: The campaign's directory.
        round: The round that it was published for; changes that a start accepted replace it for later rounds. None
            returns the present one.
    """
    here = round_directory(directory, 0)
    kept = {int(path.name.rpartition("-")[2]): path for path in here.glob(REPLACED_START.format("*"))}
    later = [last for last in kept if round is not None and last >= round]
    return kept[min(later)] if later else here / "start"


def keep_start(directory: Path, last_round: int) -> None:
    """Keep what round 0 published beside it, for the finished rounds, before it is published anew. Takes no space.

    An existing copy stays: it is theirs, because no round ran between two changes.
    """
    start = start_directory(directory)
    copy = start.with_name(REPLACED_START.format(f"{last_round:03d}"))
    if last_round == 0 or copy.exists() or not start.is_dir():
        return
    unfinished = start.with_name(f".start.tmp-kept-{os.getpid()}")
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.copytree(start, unfinished, copy_function=os.link)
    os.rename(unfinished, copy)


def read_state(directory: Path) -> State | None:
    """Read campaign.json; None before the first start has pinned the start model.

    Raises:
        ValueError: The file is damaged.
        NewerVersion: A newer version of Ratchet wrote it.
    """
    path = directory / "campaign.json"
    try:
        content = read_json(path, remedy=REMEDY)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if content.pop("sha256", _sha256(content)) != _sha256(content):
        raise ValueError(f"{path} is damaged (its content does not match its sha256): {REMEDY}")
    try:
        return as_record(State, content, path)
    except NewerVersion:
        raise
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({str(error).splitlines()[0]}): {REMEDY}") from None


def known_campaigns() -> list[str]:
    """Return the names of all campaigns that have begun, in alphabetical order."""
    return sorted(path.parent.name for path in runs_directory().glob("*/campaign.json"))


def known_state(campaign: str) -> State:
    """Read the state of a campaign that must exist.

    Raises:
        ValueError: The campaign does not exist; the message names the existing ones.
    """
    state = read_state(campaign_directory(campaign))
    if state is None:
        names = ", ".join(known_campaigns())
        remedy = f"choose one of {names}" if names else "start one with `ratchet run`"
        raise ValueError(f"campaign {campaign} does not exist in {runs_directory()}: {remedy}")
    return state


def write_state(directory: Path, state: State) -> None:
    """Replace campaign.json atomically."""
    content = state.model_dump(mode="json")
    write_json(directory / "campaign.json", content | {"sha256": _sha256(content)})


def _sha256(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def open_target(state: State, num_rounds: int, until: int | None = None) -> int:
    """Return the last round of a start.

    It is `until` if that is given, else the open target of a start that did not finish, else `num_rounds` beyond the
    last round.
    """
    if until is not None:
        return until
    return state.last_round + num_rounds if state.target is None else state.target


def has_reached(state: State | None, until: int | None) -> bool:
    """Return whether a start that goes to round `until` has nothing left to do, not even to show the last round.

    An open target is closed only after what follows its last round. A round that MLflow does not have is left to do.
    """
    if state is None or until is None or state.last_round < until or state.target == state.last_round:
        return False
    return all(record.mlflow_run_id is not None for record in state.rounds)


def with_round(state: State, record: RoundRecord) -> State:
    """Return the state with a finished round added; a new round that was promoted is the champion.

    A known round is replaced and leaves the champion as it is: a later round or a rollback may have changed it since.
    """
    others = [other for other in state.rounds if other.round != record.round]
    new = len(others) == len(state.rounds)
    champion = Champion(round=record.round, digest=record.policy_digest) if new and record.promoted else state.champion
    return state.model_copy(
        update={"rounds": tuple(sorted([*others, record], key=lambda each: each.round)), "champion": champion}
    )


def finish_round(directory: Path, record: RoundRecord) -> State:
    """Record a finished round in campaign.json and, if it was promoted, make it the champion. Idempotent."""
    state = read_state(directory)
    assert state is not None
    state = with_round(state, record)
    write_state(directory, state)
    return state


def accept_audits(directory: Path) -> None:
    """Let a campaign go on although an audit contradicts its promotions. Idempotent; nothing if none does."""
    state = read_state(directory)
    if state is not None and state.doubt is not None:
        accepted = (*state.accepted_audits, state.doubt[0])
        write_state(directory, state.model_copy(update={"accepted_audits": accepted}))


def refuse_if_doubted(state: State | None) -> None:
    """Hold a campaign whose promotions an audit contradicts.

    Raises:
        ChampionDoubted: It does, and no user acted on it.
    """
    if state is not None and state.doubt is not None:
        raise ChampionDoubted(explain_doubt(state))


def explain_doubt(state: State) -> str:
    """Return why a campaign is held, and how to go on; empty if it is not."""
    if state.doubt is None:
        return ""
    round, found = state.doubt
    return (
        f"campaign {state.campaign} is held: the audit of round {round} contradicts its promotions: {found}. "
        f"See `ratchet report {state.campaign}`; then `ratchet rollback {state.campaign} ROUND`, or start again with "
        "--accept-audit"
    )


def note_mlflow_run(directory: Path, round: int, run_id: str) -> None:
    """Write the MLflow run of a finished round into campaign.json; leave everything else unchanged."""
    state = read_state(directory)
    assert state is not None
    rounds = tuple(
        record.model_copy(update={"mlflow_run_id": run_id}) if record.round == round else record
        for record in state.rounds
    )
    write_state(directory, state.model_copy(update={"rounds": rounds}))
