"""Choose the models of a reward and the demonstrations that it is measured on, before the first file is written."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from components.artifacts import derive_seed, read_json
from components.campaign.config import config_of_round, with_former_knobs
from components.campaign.models import model_of_round
from components.campaign.state import read_state, round_directory, start_directory
from components.config import WITHOUT_REFERENCE, CampaignConfig, JudgeConfig, PolicyConfig
from components.data.content import HeldOutContents, content_key
from components.data.demonstrated_answers import DemonstratedAnswers, answers_of_held_out, demonstrated_answers
from components.data.demonstrations import read_demonstrations
from components.data.messages import format_messages, parse_messages
from components.judges.registry import check_judge, judge_digest
from components.models.tokens import load_chat
from components.records import InferRewardRequest, JudgeRef, ShownDemonstration
from components.start.demonstrations import unusable

TRAINED_ON = "a round trained on its prompt"


class Source(NamedTuple):
    """Demonstrations that a reward is measured on."""

    file: str
    """Empty takes those of the campaign that answer its held-out prompts."""
    split: str


def prepare_request(
    directory: Path, *, round: int | None, source: Source, against: Path | None, samples: int
) -> InferRewardRequest:
    """Pin the models of a reward, and the demonstrations that no round trained on.

    Args:
        directory: The campaign's directory.
        round: Round whose model is the policy; None takes the champion's.
        source: Demonstrations to measure on.
        against: Directory of a reward model to compare with; None without.
        samples: Own answers of the start model to each prompt.

    Raises:
        ValueError: There is no such round, nothing was promoted yet, or an input cannot be used; one line with the
            remedy.
    """
    state = read_state(directory)
    assert state is not None, directory
    number = state.champion.round if round is None else round
    if number == 0:
        raise ValueError(
            f"the champion of {directory.name} is still its start model, from which no reward can be inferred: promote "
            "a round first, or name one with --round"
        )
    if number not in {record.round for record in state.rounds}:
        raise ValueError(f"round {number} of {directory.name} is not finished: name one that `ratchet status` shows")
    config = CampaignConfig.model_validate(with_former_knobs(config_of_round(directory, number)))
    if config.training.loss in WITHOUT_REFERENCE:
        raise ValueError(
            f"{directory.name} trains with the loss {config.training.loss}, which has no reference and so infers no "
            "reward: name a campaign with another loss"
        )
    pinned = read_json(start_directory(directory) / "start.json")
    policy, start = model_of_round(directory, number), model_of_round(directory, 0)
    date = config.policy.template_date or pinned.get("template_date") or ""
    limits = config.policy.model_copy(update={"template_date": date})
    answers, left_out = _unseen(directory, config, limits, source)
    return InferRewardRequest(
        campaign=directory.name,
        policy=policy,
        start=start,
        limits=limits,
        beta=config.training.beta,
        demonstrations=answers,
        left_out=left_out,
        against=None if against is None else _reward_model(against),
        samples=samples,
        sampling=config.evaluation,
        generation=config.generation,
        batch_size=JudgeConfig().batch_size,
        seed=derive_seed(config.seed, number, "inferred_reward"),
    )


def _reward_model(directory: Path) -> JudgeRef:
    judge = JudgeConfig(kind="reward_model", model=str(directory.absolute()))
    check_judge(judge)
    return JudgeRef(config=judge, digest=judge_digest(judge))


def _unseen(
    directory: Path, config: CampaignConfig, limits: PolicyConfig, source: Source
) -> tuple[tuple[ShownDemonstration, ...], dict[str, int]]:
    """Return the demonstrations whose prompts no round trained on, and how many others there are, by reason."""
    answers = _answers(directory, config, source)
    if answers is None:
        return (), {}
    trained, chat = _trained_contents(directory), load_chat(model_of_round(directory, 0), limits)
    left_out, rows = Counter(answers.left_out), []
    for row in answers.rows:
        reason = TRAINED_ON if content_key(row.messages) in trained else unusable(row, chat, limits)
        if reason:
            left_out[reason] += 1
        else:
            rows.append(ShownDemonstration(prompt=format_messages(row.messages), answer=row.answer))
    if source.file and not rows:
        reasons = "; ".join(f"{count} x {reason}" for reason, count in left_out.items())
        raise ValueError(f"the reward cannot be measured on {source.file} ({reasons}): name other demonstrations")
    return tuple(rows), dict(left_out)


def _answers(directory: Path, config: CampaignConfig, source: Source) -> DemonstratedAnswers | None:
    """Return the demonstrations to measure on; None if there are none."""
    own, preferences = config.policy.system_prompt, config.preferences
    if source.file:
        read = read_demonstrations(source.file, split=source.split)
        return demonstrated_answers(read, system_prompt=own, held_out=HeldOutContents([], "content"))
    if not preferences.demonstrations:
        return None
    split, revision = preferences.demonstrations_split, preferences.demonstrations_revision
    read = read_demonstrations(preferences.demonstrations, split=split, revision=revision)
    pinned = (read_json(start_directory(directory) / "start.json").get("demonstrations") or {}).get("digest")
    if pinned not in (None, read.digest):
        raise ValueError(
            f"{preferences.demonstrations} has another content than when {directory.name} learned from it: restore it, "
            "or name demonstrations with --demonstrations"
        )
    prompts = pd.read_parquet(start_directory(directory) / "held_out_prompts.parquet", columns=["messages"])
    held_out = HeldOutContents(map(parse_messages, prompts["messages"]), config.prompts.held_out_by)
    answers = answers_of_held_out(read, system_prompt=own, held_out=held_out)
    return answers if answers.rows else None


def _trained_contents(directory: Path) -> set[str]:
    """Return the content keys of the prompts that any round trained on."""
    state = read_state(directory)
    assert state is not None, directory
    tables = [round_directory(directory, record.round) / "validate_data" / "train.parquet" for record in state.rounds]
    for table in tables:
        if not table.is_file():
            raise ValueError(f"{table} is missing, which says what a round trained on: restore it")
    texts = {text for table in tables for text in pd.read_parquet(table, columns=["prompt"])["prompt"]}
    return {content_key(parse_messages(text)) for text in texts}
