"""The inputs that round 0 pinned by content, and what has changed in them since.

A file that is rewritten beside the campaign would else replace held-out prompts or the start weights without a word.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq

from components.artifacts import digest, file_digest, read_json
from components.campaign.files import read_manifest
from components.campaign.known_digests import KnownDigests
from components.campaign.state import State, read_state, round_directory, start_directory
from components.config import BUILTIN, CampaignConfig, JudgeConfig
from components.data.columns import COLUMNS, format_columns
from components.data.messages import parse_messages, without_system
from components.data.prompts import Prompt, content_key
from components.judges.registry import describe_judge, judge_digest
from components.judges.reward_model_directory import reward_model_directory
from components.models.directory import text_files
from components.models.weights import weights_digest
from components.records import ModelRef, StartPins
from components.start.hub import at_commits, commits_of
from components.start.preflight import Inputs, check_inputs

HELD_OUT = "held_out_prompts.parquet"


class Change(NamedTuple):
    """One input that is not what round 0 pinned."""

    what: str
    refusal: str = ""
    """Why the campaign cannot continue with it; empty if it can."""


class CheckedStart(NamedTuple):
    """What a start works with."""

    config: CampaignConfig
    """The configuration, with the revisions of the hub at their commits."""
    inputs: Inputs
    pins: StartPins
    accepted: list[str]
    """Inputs that have changed, if the changes are accepted: round 0 must be published anew."""


def check_start(
    directory: Path, config: CampaignConfig, *, accept_changes: bool, known: KnownDigests | None = None
) -> CheckedStart:
    """Check all inputs of a start, and that they are what round 0 pinned.

    Args:
        directory: The campaign's directory, which may not exist yet.
        config: Its configuration.
        accept_changes: Whether to continue with inputs that have changed, as far as that is sane.
        known: Digests of files that were read before; None reads all of them.

    Raises:
        ValueError: An input cannot be used, or has changed; one line that says what and how to continue.
    """
    pinned = Pinned.read(directory)
    commits = commits_of(config, None if pinned is None else pinned.content)
    config = at_commits(config, commits)
    held_out = () if pinned is None or config.prompts.held_out else pinned.held_out_keys(config.policy.system_prompt)
    inputs = check_inputs(config, held_out_before=held_out)
    pins = StartPins(
        commits=commits,
        seed_pairs_digest=inputs.seed_pairs_digest,
        constraint_digest=inputs.constraint_digest,
        regression_digest=inputs.regression_digest,
        held_out=held_out,
    )
    if pinned is None:
        return CheckedStart(config, inputs, pins, [])
    changes = list(pinned.changes(config, inputs, known or KnownDigests(None)))
    _refuse(config.campaign, changes, accept_changes=accept_changes)
    pins = pins.model_copy(
        update={
            "template_date": pinned.content.get("template_date") or "",
            "model_digest": pinned.model.digest if pinned.has_rounds else None,
        }
    )
    return CheckedStart(config, inputs, pins, [change.what for change in changes])


def _refuse(campaign: str, changes: Sequence[Change], *, accept_changes: bool) -> None:
    refused = [change for change in changes if change.refusal]
    if not changes or (accept_changes and not refused):
        return
    told = f"the inputs of campaign {campaign} are not what round 0 pinned ({'; '.join(each.what for each in changes)})"
    if refused:
        reasons = "; ".join(dict.fromkeys(change.refusal for change in refused))
        raise ValueError(f"{told}: {reasons}: restore them, or choose another campaign name")
    raise ValueError(
        f"{told}: restore them, choose another campaign name, or pass --accept-changes to continue with the new ones"
    )


@dataclass(frozen=True)
class Pinned:
    """What round 0 of a campaign published."""

    campaign: Path
    content: dict[str, Any]
    """Content of start.json."""
    state: State | None

    @classmethod
    def read(cls, campaign: Path) -> "Pinned | None":
        """Read what round 0 published; None if it has not.

        Raises:
            ValueError: A file that says what was pinned is damaged.
        """
        start = start_directory(campaign)
        if not (start / "start.json").is_file():
            return None
        manifest = read_manifest(start)
        published = {} if manifest is None else manifest.files
        for name in published.keys() & {"start.json", HELD_OUT}:
            if not (start / name).is_file() or file_digest(start / name) != published[name].sha256:
                raise ValueError(f"{start / name} is damaged: restore it, or remove {start} to pin the inputs anew")
        return cls(campaign, read_json(start / "start.json"), read_state(campaign))

    @property
    def has_rounds(self) -> bool:
        """Whether a round is finished, which stands on this start model."""
        return self.state is not None and bool(self.state.rounds)

    @cached_property
    def model(self) -> ModelRef:
        """The start model; its base is relative to round 0 if it was published there."""
        return ModelRef.model_validate(self.content["model"])

    @property
    def sft(self) -> dict[str, Any] | None:
        """Training of the start model on demonstrations; None without, as in earlier versions."""
        return self.content.get("sft")

    def held_out_keys(self, system_prompt: str) -> tuple[str, ...]:
        """Return the content keys of the held-out prompts, without the system prompt that the policy reads."""
        table = pq.read_table(start_directory(self.campaign) / HELD_OUT, columns=["messages"])
        conversations = map(parse_messages, table["messages"].to_pylist())
        return tuple(sorted(content_key(without_system(messages, system_prompt)) for messages in conversations))

    def changes(self, config: CampaignConfig, inputs: Inputs, known: KnownDigests) -> Iterator[Change]:
        """Yield what is not as it was pinned, the prompts first."""
        train, held_out = inputs.prompts.sides
        if told := self._prompts_changed("train", train):
            yield Change(f"training prompts {config.prompts.train}: {told}")
        if told := self._prompts_changed("held_out", held_out):
            source = config.prompts.held_out or f"of {config.prompts.train}"
            yield Change(f"held-out prompts {source}: {told}", self._leak(held_out))
        for name, digest_now, source in (
            ("seed_pairs_digest", inputs.seed_pairs_digest, f"seed pairs {config.preferences.seed_pairs}"),
            ("constraint_digest", inputs.constraint_digest, f"function {config.constraints.function}"),
            ("regression_digest", inputs.regression_digest, f"regression tasks {', '.join(config.regression.tasks)}"),
        ):
            before = self.content.get(name)
            if before is not None and digest_now is not None and digest_now != before:
                yield Change(f"{source}: another content")
        if self.sft is not None and inputs.demonstrations_digest not in (None, self.sft["demonstrations_digest"]):
            # A start model that is trained anew would be another one.
            refusal = "finished rounds stand on the start model" if self.has_rounds else ""
            yield Change(f"demonstrations {config.sft.demonstrations}: another content", refusal)
        before = (self.content.get("demonstrations") or {}).get("digest")
        if inputs.demonstrations is not None and before not in (None, inputs.demonstrations.digest):
            yield Change(f"demonstrations {config.preferences.demonstrations}: another content")
        judges = {"judge": config.judge, "evaluation_judge": config.evaluation_judge}
        judges |= {"active_judge": config.active.judge} if config.active.budget else {}
        judges |= {"holdout_judge": config.holdout_judge} if config.holdout_judge else {}
        for name, judge in judges.items():
            pinned = self.content.get(name)
            # Another judge is a change of the configuration, which is refused or accepted as such.
            if pinned is None or digest(JudgeConfig.model_validate(pinned["config"])) != digest(judge):
                continue
            if _judge_digest(judge, known) != pinned["digest"]:
                yield Change(f"{name} {describe_judge(judge)}: another content")
        if config.policy.model != BUILTIN or self.sft is None:
            yield from self._model_changes(known)

    def _prompts_changed(self, kind: str, prompts: Sequence[Prompt]) -> str:
        """Return how the prompts differ from the pinned ones, in whichever order; empty if they do not."""
        path = start_directory(self.campaign) / f"{kind}_prompts.parquet"
        names = ["prompt_id", *({COLUMNS} & set(pq.read_schema(path).names))]
        rows = pq.read_table(path, columns=names).to_pylist()
        before = {row["prompt_id"]: row.get(COLUMNS) for row in rows}
        now = {prompt.prompt_id: format_columns(prompt.columns) if prompt.columns else None for prompt in prompts}
        counts = Counter(
            {
                "added": len(now.keys() - before.keys()),
                "removed": len(before.keys() - now.keys()),
                # What newly reads columns is a change of the configuration.
                "with other columns": sum(
                    None not in (before[name], now[name]) and before[name] != now[name]
                    for name in now.keys() & before.keys()
                ),
            }
        )
        return ", ".join(f"{count} {what}" for what, count in counts.items() if count)

    def _leak(self, held_out: Sequence[Prompt]) -> str:
        """Return why these prompts cannot be held out: finished rounds trained on some of them."""
        keys = {content_key(prompt.messages) for prompt in held_out}
        trained = set()
        for record in self.state.rounds if self.state else ():
            path = round_directory(self.campaign, record.round) / "validate_data" / "train.parquet"
            if path.is_file():
                trained |= set(pq.read_table(path, columns=["prompt"])["prompt"].to_pylist())
        leaked = len(keys & {content_key(parse_messages(messages)) for messages in trained})
        return f"finished rounds trained on {leaked} of the new held-out prompts" if leaked else ""

    def _model_changes(self, known: KnownDigests) -> Iterator[Change]:
        model = self.model if self.sft is None else ModelRef.model_validate(self.sft["base"])
        base = Path(model.base)
        if not base.is_absolute():
            return  # published with round 0, whose own files are checked
        refusal = "finished rounds stand on the start model" if self.has_rounds else ""
        if not base.is_dir():
            yield Change(f"start model {base}: not on this machine", refusal or "it was pinned there")
            return
        files = sorted(base.glob("*.safetensors"))
        if weights_digest(files, known) != model.base_digest:
            yield Change(f"start model {base}: other weights", refusal)
        before = self.content.get("model_files") if self.sft is None else None
        now = {file.name: known.of_file(file) for file in text_files(base)}
        if before is not None and before != now:
            names = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
            yield Change(f"start model {base}: another {', '.join(names)}", refusal)


def _judge_digest(judge: JudgeConfig, known: KnownDigests) -> str:
    if judge.kind != "reward_model":
        return judge_digest(judge)
    files = sorted(file for file in reward_model_directory(judge).iterdir() if file.is_file())
    return known.of_files(files, lambda: judge_digest(judge), what=f"judge {digest(judge)}")
