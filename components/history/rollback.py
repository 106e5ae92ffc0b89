"""Make an earlier promoted round, or the start model, the champion again.

Only campaign.json changes. An open round stays correct: the keys of its stages hold the digests of their inputs, so
stages that were published from the replaced champion run again from the restored one.
"""

from datetime import UTC, datetime
from pathlib import Path

from components.campaign.files import read_manifest
from components.campaign.lock import locked
from components.campaign.models import model_of_round
from components.campaign.state import Champion, Rollback, State, read_state, round_directory, write_state
from components.history.stored import stored_files
from components.report.wording import model_name


def roll_back(directory: Path, round: int) -> State:
    """Restore a champion under the campaign's lock; the next round starts from it.

    MLflow is not changed: `tracking.announce_champion` does that.

    Args:
        directory: runs/<campaign>, which must exist.
        round: A promoted round, or 0 for the start model.

    Returns:
        The campaign's new state; this rollback is the last of its `rollbacks`.

    Raises:
        ValueError: The round does not exist, was never promoted or is already the champion, or its weights are missing
            or damaged.
        CampaignBusy: Another process is working on the campaign.
    """
    with locked(directory, command="ratchet rollback"):
        state = read_state(directory)
        assert state is not None, directory
        _refuse_unless_earlier_champion(state, round)
        model = model_of_round(directory, round)
        _refuse_damaged(directory, round, Path(model.base))
        at = datetime.now(UTC).isoformat(timespec="seconds")
        rollback = Rollback(former=state.champion.round, to=round, at=at, after_round=state.last_round)
        champion = Champion(round=round, digest=model.digest)
        state = state.model_copy(update={"champion": champion, "rollbacks": (*state.rollbacks, rollback)})
        write_state(directory, state)
        return state


def _refuse_unless_earlier_champion(state: State, round: int) -> None:
    promoted = [0, *(record.round for record in state.rounds if record.promoted)]
    others = ", ".join(str(number) for number in promoted if number != state.champion.round)
    choice = f"choose one of {others}" if others else "no other model was ever promoted"
    if round == state.champion.round:
        raise ValueError(f"{model_name(round)} is already the champion of campaign {state.campaign}: {choice}")
    if round not in (0, *(record.round for record in state.rounds)):
        raise ValueError(f"campaign {state.campaign} has no finished round {round}: {choice}")
    if round not in promoted:
        raise ValueError(f"round {round} of campaign {state.campaign} was never promoted: {choice}")


def _refuse_damaged(directory: Path, round: int, base: Path) -> None:
    """Verify the hashes of weights inside the campaign's directory.

    A start model outside of it must at least exist.
    """
    if not base.is_dir():
        raise ValueError(
            f"the weights of {model_name(round)} are missing: {base} is not a directory; "
            "restore it or choose another round"
        )
    stage = round_directory(directory, round) / ("dpo_train" if round else "start")
    manifest = read_manifest(stage)
    if manifest is None:
        raise ValueError(
            f"the manifest of {stage} is missing or damaged, so its weights cannot be verified: restore it or choose "
            "another round"
        )
    weights = [*stored_files(stage, manifest, within="model/"), *stored_files(stage, manifest, within="adapter/")]
    damaged = [file.name for file in weights if file.condition != "intact"]
    if damaged:
        raise ValueError(
            f"{stage / damaged[0]} no longer matches its recorded hash: restore it or choose another round"
        )
