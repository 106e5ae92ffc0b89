"""Build the tree of a model's inputs, with each file checked against the hash in its manifest."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from components.artifacts import digest, read_json
from components.campaign.config import config_of_round
from components.campaign.files import STAGES, CampaignFiles, read_manifest, start_of_round
from components.campaign.known_digests import KnownDigests
from components.campaign.models import MASTER, CollectedWeights, collected_weights
from components.campaign.state import round_directory
from components.history.stored import Condition, StoredFile, stored_files, worst
from components.models.weights import weights_digest
from components.records import Manifest, RoundRecord
from components.report.lineage import judge_name
from components.report.wording import model_name

_JUDGES = {"judge": "judge", "evaluation judge": "evaluation_judge"}
_PROMPTS = {"train prompts": "train_prompts.parquet", "held-out prompts": "held_out_prompts.parquet"}
DEMONSTRATIONS, SHOWN_PROMPTS = "demonstrations.parquet", "demonstration_prompts.parquet"
FILE = "file"
"""Name of a node that represents only its file."""


@dataclass(frozen=True)
class Node:
    """One input of a model, with its own inputs."""

    what: str
    digest: str | None
    """sha256 of tensors, of a file or of a configuration; None if it is unknown or the node has none."""
    note: str | None = None
    path: str | None = None
    """Relative to the campaign's directory."""
    condition: Condition | None = None
    """None if the node is not a file."""
    children: tuple["Node", ...] = ()


def walk(nodes: tuple[Node, ...]) -> Iterator[Node]:
    """Yield the nodes and all their descendants, each node before its children."""
    for node in nodes:
        yield node
        yield from walk(node.children)


@dataclass(frozen=True)
class ModelTree:
    """The model of a round, or the start model for round 0, with the files behind it."""

    campaign: CampaignFiles
    round: int
    git_shas: dict[str, str]
    known: KnownDigests
    """Digests of files that were read before."""

    @property
    def directory(self) -> Path:
        """Directory of the round's stages."""
        return round_directory(self.campaign.directory, self.round)

    @cached_property
    def trained(self) -> dict[str, Any] | None:
        """Content of train.json; None if the file is no longer what was published, and so cannot be trusted."""
        intact = any(file.name == "train.json" and file.condition == "intact" for file in self._files("dpo_train"))
        return read_json(self.directory / "dpo_train" / "train.json") if intact else None

    @property
    def parents(self) -> tuple[int | None, ...]:
        """Rounds of the models from which it was trained and against which it was measured.

        If train.json cannot be trusted, campaign.json is used instead.
        """
        if self.round == 0:
            return ()
        if self.trained is None:
            return (self.campaign.champion_before(self.round),)
        return tuple(_round_of(self.campaign, self.trained[name]) for name in ("start_digest", "reference_digest"))

    def node(self) -> Node:
        """Return the model as a tree of its inputs."""
        if self.round == 0:
            return self._start()
        record = next(record for record in self.campaign.finished if record.round == self.round)
        standing = "promoted" if record.promoted else "refused"
        crowned = ", the champion" if self.campaign.state.champion.round == self.round else ""
        parts = [
            self._weights(),
            *self._origins(),
            self._pairs(),
            self._evaluation(),
            self._config(),
            self._git_sha(record),
        ]
        paths = {node.path for node in walk(tuple(parts))}
        others = [node for node in self._damaged() if node.path not in paths]
        return Node(model_name(self.round), record.policy_digest, f"{standing}{crowned}", children=(*parts, *others))

    def _start(self) -> Node:
        start = self.campaign.start
        if start is None:
            return Node(model_name(0), None, "round 0 is gone", "round-000/start", "gone")
        parts = [self._file(what, "start", name) for what, name in _PROMPTS.items()]
        parts += [Node(what, start[key]["digest"], judge_name(start[key]["config"])) for what, key in _JUDGES.items()]
        if "sft" in start:
            parts += [Node("demonstrations", start["sft"]["demonstrations_digest"])]
            parts += [Node("trained from", start["sft"]["base"]["digest"], "the base, before the demonstrations")]
        weights = self._start_weights(start["model"])
        paths = {node.path for node in (*parts, *weights.children)}
        others = [node for node in self._damaged() if node.path not in paths]
        return Node(model_name(0), start["model"]["digest"], children=(weights, *parts, *others))

    def _start_weights(self, model: dict[str, Any]) -> Node:
        base = Path(model["base"])
        if not base.is_absolute():
            return self._folder("start", base.name)
        condition = _tensors_condition(base, model["base_digest"], self.known)
        return Node("weights", None, "outside the campaign", str(base), condition)

    def _weights(self) -> Node:
        if self._collected is not None:
            note = f"removed at {self._collected.at} to free disk"
            return Node("weights", None, note, self._place("dpo_train", self._collected.what), "collected")
        return self._folder("dpo_train", "model" if self.trained is None else self.trained["directory"])

    @cached_property
    def _collected(self) -> CollectedWeights | None:
        """Content of collected.json; None if the weights were not removed, or were restored since."""
        note = collected_weights(self.campaign.directory, self.round)
        return None if note is None or (self.directory / "dpo_train" / note.what).exists() else note

    def _folder(self, stage: str, name: str) -> Node:
        """Return a directory of weights as one node with only its damaged files as children."""
        files = [file for file in self._files(stage) if file.name.startswith(f"{name}/")]
        damaged = tuple(self._node(FILE, stage, file) for file in files if file.condition != "intact")
        condition = worst(file.condition for file in files) if files else "gone"
        return Node("weights", None, f"{len(files)} files", self._place(stage, name), condition, damaged)

    def _origins(self) -> Iterator[Node]:
        if self.trained is None:
            yield Node("trained from", None, "unknown: train.json is no longer what was published")
            return
        start, reference = self.trained["start_digest"], self.trained["reference_digest"]
        yield Node("trained from", start, _name_of(self.campaign, start))
        yield Node(
            "reference", reference, "the same model" if reference == start else _name_of(self.campaign, reference)
        )

    def _pairs(self) -> Node:
        verdicts = self._file("verdicts", "collect_preferences", "verdicts.parquet", *self._judged())
        preferences = self._file("preferences", "collect_preferences", "preferences.parquet", verdicts)
        train = self._file("train pairs", "validate_data", "train.parquet", preferences)
        return replace(train, note=self._replayed())

    def _replayed(self) -> str | None:
        """Return a note if pairs of earlier rounds are among the training pairs."""
        intact = any(
            file.name == "validation.json" and file.condition == "intact" for file in self._files("validate_data")
        )
        replayed = read_json(self.directory / "validate_data" / "validation.json")["replayed"] if intact else None
        return f"{replayed} of the received pairs replayed from earlier rounds" if replayed else None

    def _judged(self) -> Iterator[Node]:
        """Yield the inputs of the verdicts, and the judge that gave them."""
        seed_pairs = (
            config_of_round(self.campaign.directory, self.round)["preferences"]["seed_pairs"] if self.round == 1 else ""
        )
        if seed_pairs:
            yield Node("seed pairs", None, seed_pairs)
        else:
            pool = self._pool()
            prompts = self._file(
                "this round's prompts", "generate_responses", "prompts.parquet", *([pool] if pool else [])
            )
            yield self._file("responses", "generate_responses", "responses.parquet", prompts)
        start, manifest = self._pinned
        if start is not None and manifest is not None and self._shown:
            yield Node("demonstrations", manifest.files[DEMONSTRATIONS].sha256, "round 0; no judge made the pairs")
        elif start is not None:
            judge = start["judge"]
            yield Node("judge", judge["digest"], judge_name(judge["config"]))

    @cached_property
    def _pinned(self) -> tuple[dict[str, Any] | None, Manifest | None]:
        """What round 0 published for this round."""
        return start_of_round(self.campaign.directory, self.round)

    @cached_property
    def _shown(self) -> bool:
        """Whether the round's pairs were built from demonstrations."""
        counts = self.directory / "collect_preferences" / "collect.json"
        return counts.is_file() and "demonstrations" in read_json(counts)

    def _pool(self) -> Node | None:
        _, manifest = self._pinned
        if manifest is None:
            return None
        pool, name = ("train", "train_prompts.parquet")
        if self._shown:
            pool, name = "demonstrations'", SHOWN_PROMPTS
        return Node(f"drawn from the {pool} prompts", manifest.files[name].sha256, "round 0")

    def _evaluation(self) -> Node:
        parts = []
        start, manifest = self._pinned
        if start is not None and manifest is not None:
            parts = [Node("held-out prompts", manifest.files["held_out_prompts.parquet"].sha256, "round 0")]
            judge = start["evaluation_judge"]
            parts.append(Node("evaluation judge", judge["digest"], judge_name(judge["config"])))
        return self._file("evaluation", "evaluate", "evaluation.json", *parts)

    def _config(self) -> Node:
        return Node("config", digest(config_of_round(self.campaign.directory, self.round)))

    def _git_sha(self, record: RoundRecord) -> Node:
        return Node(
            "git sha",
            self.git_shas.get(record.policy_digest),
            None if record.policy_digest in self.git_shas else "not in MLflow",
        )

    @cached_property
    def _manifests(self) -> dict[str, Manifest | None]:
        stages = ("start",) if self.round == 0 else STAGES
        return {stage: read_manifest(self.directory / stage) for stage in stages}

    @cached_property
    def _checked(self) -> dict[str, list[StoredFile]]:
        return {
            stage: stored_files(self.directory / stage, manifest, digest_of=self.known.of_file)
            for stage, manifest in self._manifests.items()
            if manifest is not None
        }

    def _files(self, stage: str) -> list[StoredFile]:
        return self._checked.get(stage, [])

    def _file(self, what: str, stage: str, name: str, *children: Node) -> Node:
        file = next((file for file in self._files(stage) if file.name == name), None)
        if file is None:
            return Node(what, None, "no longer published", self._place(stage, name), "gone", children)
        return self._node(what, stage, file, *children)

    def _node(self, what: str, stage: str, file: StoredFile, *children: Node) -> Node:
        return Node(what, file.record.sha256, None, self._place(stage, file.name), file.condition, children)

    def _damaged(self) -> list[Node]:
        """Return the files that are no longer what was published, except weights removed by `ratchet gc`."""
        damaged = [
            (stage, file) for stage, files in self._checked.items() for file in files if file.condition != "intact"
        ]
        return [self._node(FILE, stage, file) for stage, file in damaged if not self._was_collected(stage, file)]

    def _was_collected(self, stage: str, file: StoredFile) -> bool:
        removed = [] if self._collected is None else [self._collected.what]
        if not (self.directory / "dpo_train" / MASTER).exists():
            removed.append(MASTER)
        return stage == "dpo_train" and file.name.partition("/")[0] in removed

    def _place(self, stage: str, name: str) -> str:
        return f"{self.directory.name}/{stage}/{name}"


def _round_of(campaign: CampaignFiles, digest: str) -> int | None:
    if campaign.start is not None and campaign.start["model"]["digest"] == digest:
        return 0
    return next((record.round for record in campaign.finished if record.policy_digest == digest), None)


def _name_of(campaign: CampaignFiles, digest: str) -> str:
    round = _round_of(campaign, digest)
    return "not a model of this campaign" if round is None else model_name(round)


def _tensors_condition(base: Path, expected: str, known: KnownDigests) -> Condition:
    """Digest a start model outside the campaign's directory, whose files are in no manifest."""
    if not base.is_dir():
        return "gone"
    from safetensors import SafetensorError

    try:
        return "intact" if weights_digest(sorted(base.glob("*.safetensors")), known) == expected else "changed"
    except SafetensorError:
        return "changed"
