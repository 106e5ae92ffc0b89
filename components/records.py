"""The frozen records that pass between stages, and the domain errors.

Knows no stage and loads no machine-learning library.
"""

from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from components.config import (
    ActiveConfig,
    ChecksConfig,
    ConstraintsConfig,
    EvaluationConfig,
    FeedbackConfig,
    GateConfig,
    GenerationConfig,
    HeldOutBy,
    JudgeConfig,
    LoraConfig,
    PolicyConfig,
    PreferencesConfig,
    PromptsConfig,
    RegressionConfig,
    RewardModelConfig,
    SamplingEngine,
    SftConfig,
    SoftPromptConfig,
    Takes,
    TrainingConfig,
    ValidationConfig,
)


class StageFailed(Exception):
    """A stage ended with an error; the message names the stage and the cause."""

    def __init__(self, message: str, *, may_pass: bool = False) -> None:
        super().__init__(message)
        self.may_pass = may_pass
        """Whether a retry may succeed: the cause was the network, or something that killed a process."""


class DataRejected(Exception):
    """A round's data broke a gate of the validation; the message names the gate and the counts."""


class ModelRefused(Exception):
    """A trained model did not reach the measure that it needs to be published; the message names both numbers."""


class JudgeUnavailable(Exception):
    """A judge gave no usable verdicts; the message names the judge and what it answered."""


class ChampionDoubted(Exception):
    """An audit contradicts a campaign's promotions; the message says what it found and how to go on."""


class ServiceFailed(Exception):
    """A server that we start or call failed; the message names it and where to look."""


class RoundStopped(Exception):
    """A user or the round's budget ended the work on a round; the message says why.

    This is not a failure: a later start continues the round.
    """


class Converged(Exception):
    """A round has nothing to learn, because the policy answers as its demonstrations do; the message gives the counts.

    This is not a failure: the rounds before it have done what they were for.
    """


class NothingToLearn(Exception):
    """A start found no data for its first round; the message says what it waits for. This is not a failure."""


class RoundWaits(Exception):
    """A round waits for people, and no process can do anything for it; the message says how far they are.

    This is not a failure: a start that finds their votes continues the round.
    """


class NewerVersion(ValueError):
    """A newer version of Ratchet wrote a file, which stays as it is; the message names the file and how it shows."""


FORMAT = 1
"""Format of the records on disk. Raise it when an older version must not go on with what this one writes."""
JUDGE_USAGE = "judge_usage.json"
"""File in which a stage that asks a judge publishes counts and cost of its calls."""
CHECK_EXAMPLES = "check_examples.parquet"
"""File of validate_data with masked examples of the data checks that are above their limits."""
PROMPT_OUTCOMES = "prompt_outcomes.parquet"
"""Table in which collect_preferences publishes the outcome of each prompt."""


class Record(BaseModel):
    """A frozen value with a fixed set of fields, written as JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class VersionedRecord(Record):
    """A record whose file says its format; a file without one has format 1, as the first published campaigns."""

    format: int = Field(default=FORMAT, exclude_if=lambda format: format == 1)


class FileRecord(Record):
    """A published file: its hash, its size, and its number of rows if it is a table."""

    sha256: str
    num_bytes: int
    rows: int | None = None


class Manifest(VersionedRecord):
    """Files that a stage published. It is written last, so its presence means that the stage is complete."""

    stage: str
    version: int
    key: str
    """Digest of everything that the stage's result depends on."""
    files: dict[str, FileRecord]
    seconds: float
    peak_memory_bytes: int


class Artifact(Record):
    """A published file that a later stage reads. Its identity is its digest, not its path."""

    path: Path
    digest: str


class ModelRef(Record):
    """Weights that can be loaded: a full model, or a base with an adapter.

    Its identity is the digest of its tensors.
    """

    round: int
    """Round that made these weights; 0 is the start model."""
    base: str
    """Directory (or hub name) of the full model."""
    revision: str = "main"
    adapter: Path | None = None
    """Directory of the adapter on `base`, if any."""
    base_round: int = 0
    """Round that made the weights in `base`; 0 is the start model."""
    base_digest: str
    """sha256 over names, shapes, types and bytes of the base's tensors."""
    digest: str
    """The same over base and adapter; equal to `base_digest` if there is no adapter."""


class JudgeRef(Record):
    """A judge whose weights or rule are pinned by a digest."""

    config: JudgeConfig
    digest: str


class Interval(Record):
    """An estimate with its bootstrap interval and the number of prompts behind it."""

    value: float
    low: float
    high: float
    n: int


class StartProbe(Record):
    """A few responses of the start model, sampled as an evaluation samples them."""

    num_prompts: int
    temperature: float
    engine: SamplingEngine
    batch_size: int
    confidence: float
    """Level of the intervals of the measured shares."""
    seed: int
    stop: tuple[str, ...] = ()
    """Texts that end a response."""
    tensor_parallel_size: int = 1
    """GPUs of one copy of the model, as in generation."""
    top_p: float = 1.0
    """Share of probability that the admitted tokens reach."""
    top_k: int = 0
    """Number of admitted tokens; 0 admits all."""


class HubCommit(Record):
    """The commit at which a campaign takes a model or data set from the hub."""

    name: str
    revision: str
    """Branch, tag or commit, as the configuration names it."""
    commit: str | None
    """None if it could not be known when the campaign began; the revision is then taken as it is."""


class StartPins(Record):
    """What round 0 pins besides what its request names, and what an earlier round 0 of the campaign has pinned."""

    commits: dict[str, HubCommit] = {}
    """Commits of what comes from the hub, by the configuration's key that holds the revision."""
    seed_pairs_digest: str | None = None
    constraint_digest: str | None = None
    """Digest of the code of `constraints.function`; None without such a rule."""
    held_out: tuple[str, ...] = ()
    """Content keys of the prompts that are held out of the training prompts; empty chooses them anew."""
    template_date: str = ""
    """Date that the campaign's prompts tell already; empty takes today."""
    model_digest: str | None = None
    """Digest of the start model that finished rounds stand on; None before the first."""
    regression_digest: str | None = None
    """Digest of the tasks of `regression`; None without one."""


class DemonstrationSource(Record):
    """Demonstrations from which rounds build pairs; their identity is their content."""

    source: str
    split: str
    revision: str
    digest: str
    """sha256 over the conversations; empty if they were not read yet."""
    FREE_TO_CHANGE: ClassVar[frozenset[str]] = frozenset({"source", "split", "revision"})


class StartRequest(Record):
    """Request to pin the start model, the judges and the prompts in round 0."""

    policy: PolicyConfig
    judge: JudgeConfig
    evaluation_judge: JudgeConfig
    active_judge: JudgeConfig
    holdout_judge: JudgeConfig | None = None
    prompts: PromptsConfig
    prompts_digest: str
    lora: LoraConfig = LoraConfig()
    soft_prompt: SoftPromptConfig = SoftPromptConfig()
    """What is trained: checked against the model, once it is here, and nothing else."""
    probe: StartProbe | None = None
    """How the start model is measured; None does not measure it. No later stage reads the result."""
    carries_columns: bool = False
    """Whether the prompts have the other columns of their rows, because something reads them."""
    checks: ChecksConfig = ChecksConfig()
    """What training prompts that are nearly held-out ones are; they are counted, and no later stage reads that."""
    pins: StartPins = StartPins()
    regression: RegressionConfig = RegressionConfig()
    """Tasks whose prompts are read as those of the campaign are, and nothing else."""
    sft: Artifact | None = None
    """The model that was trained on demonstrations from `policy.model`, and is pinned in its place; None without."""
    demonstrations: DemonstrationSource | None = None
    """What rounds build pairs from; None if a judge makes them."""
    FREE_TO_CHANGE: ClassVar[frozenset[str]] = frozenset(
        {"lora", "soft_prompt", "probe", "checks", "pins", "regression"}
    )
    ADDED_LATER: ClassVar[tuple[str, ...]] = ("carries_columns", "holdout_judge", "sft", "demonstrations")


class JudgedRound(Record):
    """Outcomes of an earlier round's prompts."""

    round: int
    outcomes: Artifact
    """prompt_outcomes.parquet of the round."""


class GenerateRequest(Record):
    """Request to sample responses to this round's prompts."""

    policy: ModelRef
    limits: PolicyConfig
    prompts: Artifact
    """train_prompts.parquet of round 0, or the prompts of its demonstrations."""
    per_round: int
    solved_rounds: int
    """Rounds for which a solved prompt is left out; 0 leaves none out."""
    solved_score: float | None
    earlier: tuple[JudgedRound, ...]
    """Rounds that show which prompts are solved, oldest first; empty if none are left out."""
    round: int
    campaign_seed: int
    """Orders the pool of prompts, so that rounds draw from it without replacement."""
    generation: GenerationConfig
    seed: int
    tag_column: str = ""
    """Column of the prompts' tags; empty if they have none."""
    tag_shares: dict[str, float] = {}
    """Share of the round's prompts by tag."""
    weight_column: str = ""
    """Column of the prompts' weights; empty if all are drawn alike."""
    ADDED_LATER: ClassVar[tuple[str, ...]] = ("tag_column", "tag_shares", "weight_column")


class TakeFeedbackRequest(Record):
    """Request to take thumbs of users that no earlier round took.

    What the store holds is not part of it: what a round once took is what it trains on, however often it is started.
    """

    store: Path
    """runs/<campaign>/feedback/feedback.db."""
    feedback: FeedbackConfig
    singles: bool
    """Whether a thumb alone can be trained on; else only an answer with a correction, which is a pair."""
    cut_answers: bool
    """Whether an answer that the length limit cut may be the better one."""
    phone_region: str
    """As `checks.phone_region`, for the check for personal data."""
    earlier: tuple[Artifact, ...]
    """thumbs.parquet of the earlier rounds, oldest first."""
    FREE_TO_CHANGE: ClassVar[frozenset[str]] = frozenset({"store"})


class AnsweredRound(Record):
    """What an earlier round sampled."""

    champion: int
    """Round that made the model that answered; 0 is the start model."""
    prompts: Artifact
    responses: Artifact


class CollectRequest(Record):
    """Request to judge the responses and build preference pairs."""

    responses: Artifact | None
    """responses.parquet; None if the round is seeded by `seed_pairs`."""
    prompts: Artifact | None
    """The round's prompts.parquet; None if the round is seeded."""
    seed_pairs_digest: str | None
    """Content digest of the data set that seeds the round, if one does."""
    judge: JudgeRef
    policy: ModelRef
    """The model that the responses were sampled from; some judges read it."""
    start: ModelRef
    """Round 0; some judges read it."""
    limits: PolicyConfig
    preferences: PreferencesConfig
    active: ActiveConfig = ActiveConfig()
    active_judge: JudgeRef | None = None
    """The judge of `active`, pinned; None if it is not asked."""
    checked_judge: JudgeRef | None = None
    """The judge of the evaluation, pinned, whose agreement with people is measured; None if people are not asked."""
    seed: int
    feedback: Artifact | None = None
    """thumbs.parquet of the thumbs that the round took; None if it takes none."""
    demonstrations: Artifact | None = None
    """demonstrations.parquet of round 0, from which pairs are built without a judge; None if the judge makes them."""
    answered: tuple[AnsweredRound, ...] = ()
    """Earlier rounds whose answers pairs are built from too, oldest first."""
    ADDED_LATER: ClassVar[tuple[str, ...]] = ("checked_judge", "feedback", "demonstrations", "answered")


class ValidateRequest(Record):
    """Request to check the pairs and split them into training and evaluation pairs."""

    round: int
    preferences: Artifact
    replayed: tuple[Artifact, ...]
    """train.parquet of the earlier rounds that are replayed, oldest first."""
    held_out: Artifact
    """held_out_prompts.parquet of round 0."""
    policy: ModelRef
    """The model whose tokenizer and chat template the pairs are checked with."""
    limits: PolicyConfig
    validation: ValidationConfig
    takes: Takes
    """Unit of the training data: `pairs`, or single `responses`."""
    seed: int
    collected: Artifact | None = None
    """collect.json: what was left out before, for messages only."""
    held_out_by: HeldOutBy = "content"
    """Which pairs are left out because of a held-out prompt, as `prompts.held_out_by` says."""
    checks: ChecksConfig = ChecksConfig()
    """The limits of the data checks. They decide what is said and refused, and not which pairs are published."""
    FREE_TO_CHANGE: ClassVar[frozenset[str]] = frozenset({"collected", "checks"})
    ADDED_LATER: ClassVar[tuple[str, ...]] = ("held_out_by",)


class TrainRequest(Record):
    """Request to train the policy on the round's pairs."""

    policy: ModelRef
    reference: ModelRef
    train: Artifact
    eval: Artifact
    limits: PolicyConfig
    lora: LoraConfig
    soft_prompt: SoftPromptConfig
    training: TrainingConfig
    constraints: ConstraintsConfig
    round: int
    seed: int
    master: Artifact | None = None
    """Directory of the fp32 masters that were published with the policy, and their digest; None if it has none."""
    constraint_digest: str | None = None
    """Digest of the code of `constraints.function`; None without such a rule."""
    ADDED_LATER: ClassVar[tuple[str, ...]] = ("master", "constraint_digest")


class PromotionTest(Record):
    """The test that a round's challenger is better, as `statistics.sequential_test` runs it."""

    level: float
    """What the campaign's account of false promotions stakes on the round, in (0, 1)."""
    min_win_rate: float = 0.5
    verdict_cost: float = 0.0
    look_every: int
    """Held-out prompts that are judged between two looks."""


class Evidence(Record):
    """The evidence that a round's challenger is better than its champion."""

    level: float
    """What the campaign's account of false promotions staked on the round."""
    e_value: float
    """The stake at the end, as a multiple of the level; 1 / level suffices for a promotion."""
    shown: bool
    """Whether it suffices."""
    num_judged: int
    """Prompts that were judged."""
    num_prompts: int
    """Prompts that the round had for it."""


class AuditSettings(Record):
    """Request to audit the champion on held-out prompts that no gate sees, beside a round's evaluation."""

    earlier: ModelRef
    """The champion of `gate.audit_every` rounds ago, to be compared with the present one."""


class Audit(Record):
    """The champion compared on held-out prompts that no gate sees."""

    champion: int
    """Round of the champion."""
    earlier: int
    """Round of the earlier champion."""
    win_rate_vs_start: Interval
    win_rate_vs_earlier: Interval | None
    """None if the earlier champion is the same model, or the start."""
    contradictions: tuple[str, ...]
    """What contradicts the promotions since; the campaign is then held."""


class EvaluateRequest(Record):
    """Request to compare challenger, champion and start on the held-out prompts."""

    challenger: ModelRef
    champion: ModelRef
    start: ModelRef
    held_out: Artifact
    training: Artifact
    """train.json of this round: its reward accuracy and margin on pairs it was not trained on."""
    limits: PolicyConfig
    num_held_out: int
    """Prompts of the gate."""
    round: int
    campaign_seed: int
    """Seed of the draw of held-out prompts over the rounds."""
    audit_share: float
    """Share of the held-out prompts that is left to audits."""
    tag_column: str = ""
    """Column of the held-out prompts' tags, each of which gets its share of a round's prompts; empty for none."""
    test: PromotionTest
    engine: SamplingEngine
    batch_size: int
    judge: JudgeRef
    evaluation: EvaluationConfig
    constraints: ConstraintsConfig
    seed: int
    stop: tuple[str, ...] = ()
    """Texts that end a response, as in generation."""
    tensor_parallel_size: int = 1
    """GPUs of one copy of a model, as in generation."""
    constraint_digest: str | None = None
    """Digest of the code of `constraints.function`; None without such a rule."""
    audit: AuditSettings | None = None
    """None if no audit is due."""
    holdout_judge: JudgeRef | None = None
    regression: RegressionConfig = RegressionConfig()
    regression_digest: str | None = None
    """Digest of the content of the regression tasks; None without tasks."""
    ADDED_LATER: ClassVar[tuple[str, ...]] = (
        "stop",
        "tensor_parallel_size",
        "constraint_digest",
        "holdout_judge",
        "regression",
        "regression_digest",
    )


class BestOfNRequest(Record):
    """Request to have a judge pick the best of several answers of the start model to the held-out prompts."""

    start: ModelRef
    held_out: Artifact
    limits: PolicyConfig
    num_held_out: int
    campaign_seed: int
    """Seed of the draw of held-out prompts, as in evaluation."""
    audit_share: float
    """Share of the held-out prompts that is left to audits."""
    tag_column: str
    """Column of the held-out prompts' tags; empty for none."""
    engine: SamplingEngine
    batch_size: int
    tensor_parallel_size: int
    stop: tuple[str, ...]
    """Texts that end a response."""
    num_samples: int
    """Answers of which the judge picks one."""
    judge: JudgeRef
    evaluation_judge: JudgeRef
    """Who compares the picked answer with one more answer of the start model."""
    evaluation: EvaluationConfig
    seed: int


class PromoteRequest(Record):
    """Request to decide whether the challenger becomes the champion."""

    evaluation: Artifact
    gate: GateConfig
    regression: RegressionConfig = RegressionConfig()
    ADDED_LATER: ClassVar[tuple[str, ...]] = ("regression",)


class RewardModelRequest(Record):
    """Request to train a reward model on preference pairs."""

    base: ModelRef
    """The language model or reward model from which the training starts."""
    pairs: Artifact
    """The preference data set; its digest is of the content."""
    split: str
    """Name of the split, if the data set has splits."""
    settings: RewardModelConfig


class SftRequest(Record):
    """Request to train a model on demonstrations."""

    base: ModelRef
    """The model from which the training starts."""
    demonstrations: Artifact
    """The conversations; the digest is of the content."""
    split: str
    """Name of the split, if the data set has splits."""
    settings: SftConfig
    """Its `template_date` is set if the chat template writes the date."""
    system_prompt: str = ""
    """System message in front of every conversation that has none of its own."""
    held_out: tuple[str, ...] = ()
    """Content keys of prompts whose answers must not be trained on."""


class ShownDemonstration(Record):
    """A demonstration that a reward is measured on."""

    prompt: str
    """Its prompt as the policy reads it: chat messages as JSON."""
    answer: str


class InferRewardRequest(Record):
    """Request to save the reward that a campaign has inferred, and to measure it on demonstrations."""

    campaign: str
    policy: ModelRef
    """The model that was trained; its round names the reward."""
    start: ModelRef
    limits: PolicyConfig
    beta: float
    """`training.beta` of the round: the reward in nats of the log-ratio."""
    demonstrations: tuple[ShownDemonstration, ...]
    """Demonstrations whose prompts no round trained on; empty measures nothing."""
    left_out: dict[str, int] = {}
    """Number of demonstrations that it is not measured on, by reason; for messages."""
    against: JudgeRef | None = None
    """A reward model that is measured on the same answers; None without."""
    samples: int
    """Answers of the start model to each prompt."""
    sampling: EvaluationConfig
    """Law of these answers, and level of the intervals."""
    generation: GenerationConfig
    """Engine and stop strings of these answers."""
    batch_size: int
    seed: int
    FREE_TO_CHANGE: ClassVar[frozenset[str]] = frozenset({"left_out"})


class PeopleSummary(Record):
    """What a round's people said about its judges."""

    labelled: int
    """Pairs with a vote."""
    annotators: int
    agreement: Interval | None
    """How often two people who both decided prefer the same answer; None if no two voted on the same pair."""
    judges: dict[str, Interval]
    """By judge that judged the same pairs, how often it prefers the answer that a person prefers."""


class RoundRecord(Record):
    """A finished round, as written in campaign.json."""

    round: int
    promoted: bool
    reasons: tuple[str, ...]
    num_pairs: int
    win_rate_vs_champion: Interval
    win_rate_vs_start: Interval
    kl_to_start: float
    mean_tokens: float
    mean_reward: float | None
    length_controlled_win_rate_vs_champion: Interval | None = Field(default=None, exclude_if=lambda rate: rate is None)
    """What the win rate would be at equal length; None if an earlier version, which did not measure it, ran the
    round."""
    length_controlled_win_rate_vs_start: Interval | None = Field(default=None, exclude_if=lambda rate: rate is None)
    """The same against the start."""
    evidence: Evidence | None = Field(default=None, exclude_if=lambda evidence: evidence is None)
    """None if an earlier version, which had no such test, ran the round."""
    audit: Audit | None = Field(default=None, exclude_if=lambda audit: audit is None)
    """None if none was due."""
    distinct_2: float | None = None
    """distinct-2 of the responses that the round sampled; None if it sampled none, or was not measured."""
    equal_samples: float | None = None
    """Chance that two samples of one prompt are equal; None likewise."""
    seconds: dict[str, float]
    policy_digest: str
    reference_digest: str
    git_sha: str | None = None
    """Commit of the code that finished the round, or the package's version; None if an earlier version ran it."""
    mlflow_run_id: str | None = None
    people: PeopleSummary | None = Field(default=None, exclude_if=lambda people: people is None)
    """None if people did not vote."""


def _left_out(value: BaseModel) -> frozenset[str]:
    """Return the fields that do not belong to the identity of a record.

    Fields newer than the first published campaigns are left out at the value that changes nothing, so that no stage of
    those campaigns runs again.
    """
    free: frozenset[str] = getattr(value, "FREE_TO_CHANGE", frozenset())
    newer: tuple[str, ...] = getattr(value, "ADDED_LATER", ())
    return free | {name for name in newer if getattr(value, name) == _earlier_behaviour(value, name)}


def _earlier_behaviour(value: BaseModel, name: str) -> Any:
    """Return the value of a newer field at which everything is as it was without the field."""
    former: dict[str, Any] = getattr(value, "FORMER_DEFAULTS", {})
    return former[name] if name in former else type(value).model_fields[name].get_default(call_default_factory=True)


def identity(value: Any) -> Any:
    """Reduce a record to the values that a result may depend on.

    Artifacts and models become their digests. Paths, fields that are free to change, and fields that were added later
    and change nothing are left out.
    """
    if isinstance(value, Artifact | ModelRef):
        return value.digest
    if isinstance(value, BaseModel):
        left_out = _left_out(value)
        return {name: identity(getattr(value, name)) for name in type(value).model_fields if name not in left_out}
    if isinstance(value, tuple | list):
        return [identity(item) for item in value]
    if isinstance(value, dict):
        return {name: identity(item) for name, item in value.items()}
    return value
