"""The whole configuration of a campaign."""

import re
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from components.config.active import ActiveConfig
from components.config.checks import ChecksConfig
from components.config.data import GenerationConfig, PromptsConfig, ValidationConfig
from components.config.evaluation import EvaluationConfig, GateConfig
from components.config.judge import OWN_MODELS, SCORES_ALONE, JudgeConfig
from components.config.launcher import LauncherConfig
from components.config.policy import LoraConfig, PolicyConfig, SoftPromptConfig
from components.config.preferences import FROM_DEMONSTRATIONS, PreferencesConfig
from components.config.regression import RegressionConfig
from components.config.section import Section
from components.config.sft import CampaignSftConfig
from components.config.tracking import TrackingConfig
from components.config.training import ADAPTER_LEARNING_RATE, HARD_LABEL_LOSSES, ConstraintsConfig, TrainingConfig

CAMPAIGN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
NOT_CAMPAIGNS = re.compile(r"mlflow\.db.*|mlartifacts|bench|e2e|studies|sweeps")
"""What else lies in the directory of the campaigns."""


class BudgetConfig(Section):
    """Limits at which a round stops.

    A start with a higher limit continues it, without `--accept-changes`.
    """

    max_round_minutes: float = Field(default=0.0, ge=0.0)
    """Minutes of work on a round, over all its starts, after which it stops; 0 sets no limit."""
    cost_per_hour: float = Field(default=0.0, ge=0.0)
    """Cost of an hour of the machine, in any currency; 0 means unknown."""
    max_round_cost: float = Field(default=0.0, ge=0.0)
    """Cost of a round, over all its starts, after which it stops, in the currency of `cost_per_hour`; 0 sets no
    limit."""

    @model_validator(mode="after")
    def _cost_is_known(self) -> Self:
        if self.max_round_cost and not self.cost_per_hour:
            raise ValueError("max_round_cost needs the price of an hour: set `cost_per_hour`")
        return self


class CampaignConfig(Section):
    """A campaign: a named, long-lived sequence of rounds on one policy."""

    campaign: str
    """Name of the campaign: letters, digits, dot, dash and underscore; it names the run directory, the MLflow
    experiment and the model."""
    seed: int = Field(default=17, ge=0, lt=2**31)
    """Every stage's random numbers derive from this, the round and the stage."""
    num_rounds: int = Field(default=1, ge=1, le=1000)
    """Rounds that one start adds to the campaign."""
    reference: Literal["start", "previous", "champion"] = "champion"
    """Policy the loss is measured against: round 0, the previous round's model (promoted or not), or the best promoted
    so far."""
    policy: PolicyConfig = PolicyConfig()
    lora: LoraConfig = LoraConfig()
    soft_prompt: SoftPromptConfig = SoftPromptConfig()
    sft: CampaignSftConfig = CampaignSftConfig()
    prompts: PromptsConfig = PromptsConfig()
    generation: GenerationConfig = GenerationConfig()
    judge: JudgeConfig = JudgeConfig()
    evaluation_judge: JudgeConfig = Field(default_factory=lambda data: data["judge"])
    """Judge of the held-out comparison; left out, it is the same as `judge`."""
    holdout_judge: JudgeConfig | None = None
    """A second judge, which never makes training pairs. It is asked about a challenger that the evidence would promote,
    and must not prefer the champion (`gate.max_holdout_loss`). Left out, there is none."""
    preferences: PreferencesConfig = PreferencesConfig()
    active: ActiveConfig = ActiveConfig()
    validation: ValidationConfig = ValidationConfig()
    checks: ChecksConfig = ChecksConfig()
    training: TrainingConfig = TrainingConfig()
    constraints: ConstraintsConfig = ConstraintsConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    regression: RegressionConfig = RegressionConfig()
    gate: GateConfig = GateConfig()
    budget: BudgetConfig = BudgetConfig()
    tracking: TrackingConfig = TrackingConfig()
    launcher: LauncherConfig = LauncherConfig()

    @property
    def reads_columns(self) -> bool:
        """Whether anything reads the other columns of the prompts' rows."""
        judges = [self.judge, self.evaluation_judge, *([self.active.judge] if self.active.budget else [])]
        judges += [self.holdout_judge] if self.holdout_judge else []
        drawn_by = self.prompts.tag_column or self.prompts.weight_column
        read_by_functions = self.constraints.function or any("python" in judge.kinds for judge in judges)
        return bool(drawn_by or read_by_functions)

    @model_validator(mode="after")
    def _rate_fits_what_is_trained(self) -> Self:
        """Fill in the learning rate that is left out: adapters take a higher one than all weights."""
        left_out = "learning_rate" not in self.training.model_fields_set
        if left_out and (self.lora.rank or self.soft_prompt.kind != "none"):
            # It stays a value that was left out.
            values = dict(self.training) | {"learning_rate": ADAPTER_LEARNING_RATE}
            self.__dict__["training"] = TrainingConfig.model_construct(self.training.model_fields_set, **values)
        return self

    @model_validator(mode="after")
    def _somebody_starts_the_nodes(self) -> Self:
        nodes = {
            "generation": self.generation.nodes,
            "training": self.training.nodes,
            "evaluation": self.evaluation.nodes,
        }
        several = [f"{name}.nodes is {number}" for name, number in nodes.items() if number > 1]
        if several and self.launcher.kind == "local":
            raise ValueError(
                f"{several[0]}, and launcher.kind local starts processes on this machine only: "
                "set `launcher: {kind: slurm}`, `{kind: ray}` or `{kind: kubernetes}`"
            )
        return self

    @field_validator("campaign")
    @classmethod
    def _names_a_directory(cls, name: str) -> str:
        if not CAMPAIGN_NAME.fullmatch(name):
            raise ValueError(
                "is not a valid name: use 1 to 64 letters, digits, dots, dashes or underscores, and begin with a "
                "letter or a digit"
            )
        if NOT_CAMPAIGNS.fullmatch(name):
            raise ValueError("is the name of something else beside the campaigns' directories: choose another name")
        return name

    @model_validator(mode="after")
    def _no_policy_grades_itself(self) -> Self:
        graders = OWN_MODELS & set(self.evaluation_judge.kinds)
        if graders:
            raise ValueError(
                f"evaluation_judge would be {min(graders)}, and a policy must not grade its own promotion: "
                "set `evaluation_judge` to another kind (it is `judge` if you leave it out)"
            )
        return self

    @model_validator(mode="after")
    def _people_judge_training_pairs(self) -> Self:
        """Refuse people in the evaluation: it looks at its evidence several times, with a model in memory."""
        if self.evaluation_judge.asks_people:
            raise ValueError(
                "evaluation_judge would be people, for whom only the pairs of the training wait: set "
                "`evaluation_judge` to another kind (it is `judge` if you leave it out)"
            )
        if self.holdout_judge is not None and self.holdout_judge.asks_people:
            raise ValueError("holdout_judge is people, for whom only the pairs of the training wait: name another kind")
        if self.judge.asks_people and self.active.budget and self.active.judge.asks_people:
            raise ValueError("judge and active.judge are both people: leave one of them to another kind")
        return self

    @model_validator(mode="after")
    def _holdout_judge_is_another_one(self) -> Self:
        judge = self.holdout_judge
        if judge is None:
            return self
        if judge.reads_own_models:
            raise ValueError("holdout_judge must not be the policy itself: name another kind")
        if judge in (self.judge, self.evaluation_judge, *([self.active.judge] if self.active.budget else [])):
            raise ValueError("holdout_judge is also a judge of pairs or of the evaluation: name one that is neither")
        return self

    @model_validator(mode="after")
    def _engine_takes_the_policy(self) -> Self:
        refused = {
            "soft_prompt.kind": self.soft_prompt.kind != "none",
            "lora.kind dora": self.lora.kind == "dora",
            "lora.modules_to_save": bool(self.lora.saved_modules),
            "policy.quantization": self.policy.quantization != "none",
        }
        odd = [name for name, given in refused.items() if given]
        if self.generation.engine == "vllm" and odd:
            raise ValueError(
                f"generation.engine vllm does not work with {odd[0]}: "
                "set `generation: {engine: transformers}`, or leave that key out"
            )
        return self

    @model_validator(mode="after")
    def _own_models_can_judge(self) -> Self:
        demonstrated = self.preferences.takes_demonstrations
        if self.judge.kind == "implicit_reward" and not self.preferences.seed_pairs and not demonstrated:
            raise ValueError(
                "judge.kind implicit_reward cannot judge before a round is promoted: give round 1 its pairs with "
                "`preferences: {seed_pairs: ...}`, or use it as one juror of a jury"
            )
        if "self" in (*self.judge.kinds, *self.active.judge.kinds) and self.soft_prompt.kind != "none":
            raise ValueError(
                "judge.kind self serves the policy, and no server supports virtual tokens: set `soft_prompt: "
                "{kind: none}`"
            )
        return self

    @model_validator(mode="after")
    def _somebody_revises(self) -> Self:
        if self.preferences.pairs == "revised" and self.judge.kind != "constitution":
            raise ValueError(
                "preferences.pairs revised needs the model of a constitution: "
                "set `judge: {kind: constitution, ...}`, or choose other pairs"
            )
        return self

    @model_validator(mode="after")
    def _revisions_have_no_thoughts(self) -> Self:
        if self.preferences.pairs == "revised" and self.judge.hide_thoughts:
            raise ValueError(
                "preferences.pairs revised does not work with judge.hide_thoughts, since a revision would be trained "
                "on without a thought: leave `hide_thoughts` out, or choose other pairs"
            )
        return self

    @model_validator(mode="after")
    def _demonstrations_are_sampled(self) -> Self:
        preferences, prompts = self.preferences, self.prompts
        if not preferences.takes_demonstrations:
            return self
        if preferences.pairs == "spin" and self.reference != "champion":
            raise ValueError(
                f"preferences.pairs spin plays against the model that a round starts from, but reference is "
                f"{self.reference}: set `reference: champion`, or `pairs: ditto`"
            )
        drawn_by = {
            "weight_column": prompts.weight_column,
            "tag_shares": prompts.tag_shares,
            "solved_rounds": prompts.solved_rounds,
        }
        odd = [name for name, value in drawn_by.items() if value]
        if odd:
            raise ValueError(
                f"prompts.{odd[0]} draws from prompts.train, but preferences.pairs {preferences.pairs} samples the "
                f"prompts of its demonstrations: leave `{odd[0]}` out"
            )
        if self.judge.asks_people:
            raise ValueError(
                f"judge is people, whom preferences.pairs {preferences.pairs} asks nothing: leave `judge` out, or "
                "choose other pairs"
            )
        return self

    @model_validator(mode="after")
    def _costly_judge_has_pairs(self) -> Self:
        if self.preferences.pairs in ("revised", "unpaired", *FROM_DEMONSTRATIONS) and self.active.budget:
            raise ValueError(
                f"active.judge compares two responses of the policy, but preferences.pairs is "
                f"{self.preferences.pairs}: "
                "leave `active` out, or choose other pairs"
            )
        return self

    @model_validator(mode="after")
    def _labels_fit_the_loss(self) -> Self:
        if self.preferences.pairs == "unpaired" and self.training.takes == "pairs":
            raise ValueError(
                f"preferences.pairs unpaired needs a loss over single responses, but training.loss is "
                f"{self.training.loss}"
                f"{' with added_losses' if self.training.added_losses else ''}: set `training: {{loss: kto}}` alone"
            )
        hard = [name for name in self.training.losses if name in HARD_LABEL_LOSSES]
        if hard and self.lora.dropout:
            raise ValueError(
                f"training.loss {hard[0]} compares the pairs of a step in a forward of its own, which would drop other "
                "activations: set `lora: {dropout: 0}`, or choose another loss"
            )
        if hard and self.preferences.gives_soft_labels:
            raise ValueError(
                f"training.loss {hard[0]} takes hard labels only: set `preferences: {{soft_labels: none, ties: drop}}`"
                ", `pairs` other than nash and no `feedback.noise`, or choose another loss"
            )
        return self

    @model_validator(mode="after")
    def _evaluations_have_pairs(self) -> Self:
        if self.training.eval_every and not self.validation.eval_share:
            raise ValueError(
                f"training.eval_every {self.training.eval_every} evaluates held-back pairs, and validation.eval_share "
                "0 holds none back: set `validation: {eval_share: 0.1}`, or leave `eval_every` out"
            )
        return self

    @model_validator(mode="after")
    def _verdicts_are_of_two(self) -> Self:
        if self.preferences.soft_labels == "verdict" and self.judge.kind in SCORES_ALONE:
            raise ValueError(
                f"preferences.soft_labels verdict needs a judge that compares, and judge.kind {self.judge.kind} "
                f"scores one "
                "response at a time: set `soft_labels: bradley_terry`, or choose a judge that compares"
            )
        return self

    @model_validator(mode="after")
    def _adapter_can_be_trained(self) -> Self:
        soft_prompt = self.soft_prompt.kind
        if self.lora.rank and soft_prompt != "none":
            raise ValueError(
                "lora.rank and soft_prompt.kind are both set: set `lora: {rank: 0}` or `soft_prompt: {kind: none}`"
            )
        if soft_prompt == "prefix" and self.training.gradient_checkpointing:
            raise ValueError(
                "soft_prompt.kind prefix does not work with gradient checkpointing: "
                "set `training: {gradient_checkpointing: false}`"
            )
        if self.policy.quantization != "none" and not self.lora.rank and soft_prompt == "none":
            raise ValueError(
                "policy.quantization 4bit cannot train all weights: "
                "set `lora: {rank: 16}`, or `policy: {quantization: none}`"
            )
        if self.policy.quantization != "none" and self.lora.saved_modules:
            raise ValueError(
                f"lora.modules_to_save ({', '.join(self.lora.saved_modules)}) trains whole weights, and "
                "policy.quantization 4bit trains an adapter only: leave one of them out"
            )
        if self.policy.quantization != "none" and self.training.zero_stage == 3:
            raise ValueError("policy.quantization 4bit cannot be sharded: set `training: {zero_stage: 2}` or lower")
        return self
