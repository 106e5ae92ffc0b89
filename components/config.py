"""The campaign's configuration: the only place where a knob and its default exist.

Frozen pydantic sections; unknown keys are refused with the nearest known name. Functions elsewhere take their own section, never
the whole configuration. Importing this module loads no machine-learning library.
"""

import difflib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, PositiveFloat, ValidationError, field_validator, model_validator

LossName = Literal[
    "sigmoid",
    "sigmoid_norm",
    "ipo",
    "ipo_mean",
    "hinge",
    "robust",
    "exo_pair",
    "discopop",
    "nca_pair",
    "bco_pair",
    "sppo",
    "sppo_hard",
    "apo_zero",
    "apo_down",
    "dpop",
    "aot",
    "aot_unpaired",
    "kto",
    "sft",
    "rpo",
    "simpo",
    "orpo",
    "cpo",
]
MARGIN_LOSSES = frozenset({"sigmoid", "sigmoid_norm", "ipo", "ipo_mean", "hinge", "robust", "exo_pair", "discopop"})
"""Losses whose log-ratios another divergence may replace."""
HARD_LABEL_LOSSES = frozenset({"aot", "aot_unpaired"})
"""Losses that take no probability of a label."""
UNSMOOTHED_LOSSES = frozenset(
    {"apo_down", "apo_zero", "bco_pair", "discopop", "dpop", "kto", "nca_pair", "orpo", "sft", "sppo", "sppo_hard"}
)
"""Losses that read no label smoothing."""
CAMPAIGN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
BUILTIN = "builtin"


class Section(BaseModel):
    """A frozen group of knobs that rejects unknown keys; each field's docstring is its reference entry."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class PolicyConfig(Section):
    """The model that is being aligned."""

    model: str = BUILTIN
    """Start model: a local directory, a hub name, or `builtin` (a starter of about a million parameters, trained on first use)."""
    revision: str = "main"
    """Hub revision (branch, tag or commit) of `model`; local directories ignore it."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of weights and compute; `auto` takes bfloat16 where the accelerator or processor has it natively, else float32."""
    quantization: Literal["none", "4bit"] = "none"
    """`4bit` holds the frozen weights as NF4 in every stage and trains an adapter on them (QLoRA, arXiv 2305.14314); needs bitsandbytes."""
    max_prompt_tokens: int = Field(default=512, ge=1, le=131072)
    """Longest prompt in tokens, chat template included; a pair with a longer prompt is quarantined, never cut."""
    max_response_tokens: int = Field(default=512, ge=1, le=131072)
    """Longest response in tokens: the sampling limit, and where training and validation cut a response."""


class LoraConfig(Section):
    """Low-rank adapters in place of training all weights (Hu et al. 2021, arXiv 2106.09685)."""

    rank: int = Field(default=0, ge=0, le=1024)
    """Rank of the adapter; 0 trains all weights."""
    alpha: int = Field(default=32, ge=1, le=4096)
    """Scale of the adapter: its output is multiplied by alpha / rank."""
    kind: Literal["lora", "dora"] = "lora"
    """`lora`, or `dora`: a trained magnitude beside the low-rank direction (Liu et al. 2024, arXiv 2402.09353); slower, often better."""
    target_modules: str = "all-linear"
    """Module names to adapt, separated by commas, or `all-linear` for every linear layer but the head."""

    @model_validator(mode="after")
    def _dora_has_a_rank(self) -> Self:
        if self.kind == "dora" and not self.rank:
            raise ValueError("kind dora needs a rank: set `lora: {kind: dora, rank: 16}`, or leave `kind` out")
        return self


class SoftPromptConfig(Section):
    """Virtual tokens before every prompt, trained in place of the model's weights."""

    kind: Literal["none", "prompt", "prefix"] = "none"
    """`prompt`: embeddings before the first layer (Lester et al. 2021, arXiv 2104.08691); `prefix`: keys and values in every layer (Li and
    Liang 2021, arXiv 2101.00190). Both change the model before the first step, so a campaign's first loss is not ln 2."""
    num_tokens: int = Field(default=16, ge=1, le=1024)
    """Virtual tokens; they take their places in the model's context."""


class PromptsConfig(Section):
    """Where prompts come from."""

    train: str = BUILTIN
    """Training prompts: a JSONL or Parquet file, a saved or hub `datasets` name, or `builtin`."""
    held_out: str = BUILTIN
    """Held-out prompts, same forms as `train`; empty holds `num_held_out` of the training prompts out, chosen by content."""
    column: str = "prompt"
    """Column that holds the prompt: plain text, or a list of chat messages with `role` and `content`."""
    train_split: str = "train"
    """Split that is read when `train` is a `datasets` name."""
    held_out_split: str = "test"
    """Split that is read when `held_out` is a `datasets` name."""
    per_round: int = Field(default=512, ge=1)
    """Prompts drawn for a round, without replacement until the pool is used up."""
    num_held_out: int = Field(default=256, ge=1)
    """Held-out prompts that an evaluation uses (all of them where there are fewer)."""


class GenerationConfig(Section):
    """How responses are sampled from the current policy."""

    samples_per_prompt: int = Field(default=4, ge=2, le=256)
    """Responses sampled for each prompt."""
    temperature: float = Field(default=1.0, gt=0.0, le=5.0)
    """Divides the logits before sampling; below 1 sharpens, above 1 flattens."""
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    """Samples from the smallest set of tokens whose probability reaches this share; 1 keeps all tokens."""
    top_k: int = Field(default=0, ge=0)
    """Samples from the k most likely tokens; 0 keeps all tokens."""
    batch_size: int = Field(default=64, ge=1)
    """Prompts that are prefilled and decoded together (times `samples_per_prompt` rows); changes memory and speed, not the samples' law."""


class JudgeConfig(Section):
    """Who decides which response is better."""

    kind: Literal["rule", "reward_model"] = "rule"
    """`rule`: an allow-listed Python function; `reward_model`: a sequence-classification model with one output."""
    rule: str = "support_reply"
    """Name of the rule, when `kind` is `rule`."""
    model: str = ""
    """Local directory or hub name of the reward model, when `kind` is `reward_model`."""
    revision: str = "main"
    """Hub revision of the reward model."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the reward model; `auto` as for the policy."""
    batch_size: int = Field(default=16, ge=1)
    """Texts the reward model reads together."""
    max_tokens: int = Field(default=2048, ge=1)
    """Longest prompt plus response the reward model reads, in tokens; a longer one gets an invalid verdict, never a score of its start."""

    @model_validator(mode="after")
    def _reward_model_is_named(self) -> Self:
        if self.kind == "reward_model" and not self.model:
            raise ValueError("kind reward_model needs a model: name a local directory or a hub model in `model`")
        return self


class PreferencesConfig(Section):
    """How judged responses become preference pairs."""

    pairs: Literal["best_worst", "best_random"] = "best_worst"
    """Which response is rejected: the worst of a prompt's samples, or one drawn at random among those worse than the best."""
    min_margin: float = Field(default=0.0, ge=0.0)
    """Least difference of judge scores between chosen and rejected; pairs at or below it are dropped, and so are ties."""
    soft_labels: Literal["none", "bradley_terry"] = "none"
    """`none`: every pair is certain (p = 1); `bradley_terry`: p = sigmoid(margin / soft_label_scale)."""
    soft_label_scale: float = Field(default=1.0, gt=0.0)
    """Margin, in judge score units, at which `bradley_terry` gives p = 0.73."""
    tag: str = "helpfulness"
    """Kind of preference that this judge's pairs express."""
    max_invalid_share: float = Field(default=0.05, ge=0.0, le=1.0)
    """Share of invalid verdicts above which the round stops."""
    seed_pairs: str = ""
    """A preference data set that is round 1's data (JSONL, Parquet or `datasets` name; prompt/chosen/rejected or HH transcripts); empty
    samples round 1 like the others."""
    seed_pairs_split: str = "train"
    """Split that is read when `seed_pairs` is a `datasets` name."""


class ValidationConfig(Section):
    """What a pair must satisfy before it may be trained on."""

    max_quarantine_share: float = Field(default=0.2, ge=0.0, le=1.0)
    """Share of quarantined pairs above which the round stops."""
    min_pairs: int = Field(default=8, ge=1)
    """Fewest training pairs a round may have."""
    eval_share: float = Field(default=0.1, ge=0.0, lt=1.0)
    """Share of a round's prompts whose pairs measure reward accuracy instead of being trained on."""
    replay: int = Field(default=0, ge=0)
    """How many earlier rounds' validated training pairs are trained on again."""


class TrainingConfig(Section):
    """Direct Preference Optimization (Rafailov et al. 2023, arXiv 2305.18290) on the DeepSpeed engine."""

    loss: LossName = "sigmoid"
    """Preference loss; `sigmoid` is DPO, `ipo` takes sums of log-probabilities and `ipo_mean` their means, `simpo`, `orpo`, `cpo` and
    `sft` need no reference."""
    added_losses: dict[LossName, PositiveFloat] = {}
    """Further losses with their weights, such as {sft: 0.2}; they are added to `loss`, whose weight is 1."""
    beta: float = Field(default=0.1, gt=0.0)
    """Strength of the pull towards the reference: larger stays closer."""
    label_smoothing: float = Field(default=0.0, ge=0.0, lt=0.5)
    """Assumed share of flipped labels (conservative DPO); `exo_pair` needs it above 0."""
    divergence: Literal["reverse_kl", "forward_kl", "js", "alpha"] = "reverse_kl"
    """What holds the policy near the reference (f-DPO, arXiv 2309.16240); other than `reverse_kl` for losses of the margin only."""
    divergence_alpha: float = Field(default=0.5, ge=0.0, le=1.0)
    """Alpha of the divergence `alpha`: 0 is the reverse KL, 1 the forward KL."""
    ld_alpha: float = Field(default=1.0, ge=0.0, le=1.0)
    """Weight of the longer answer's tail (LD-DPO, arXiv 2409.06411); 1 counts it in full, lower curbs growing length."""
    weighting: Literal["none", "wpo"] = "none"
    """`wpo` weighs a pair by how likely the policy itself would answer so (arXiv 2406.11827): for pairs that are not its own."""
    nll_weight: float = Field(default=1.0, ge=0.0)
    """Weight of the chosen answer's likelihood in `rpo` and `cpo`."""
    simpo_gamma: float = Field(default=0.5, ge=0.0)
    """Margin that `simpo` asks for, in units of beta times log-probability a token."""
    dpop_lambda: float = Field(default=5.0, ge=0.0)
    """Penalty of `dpop` on a chosen answer that becomes less likely than under the reference."""
    discopop_tau: float = Field(default=0.05, gt=0.0)
    """Temperature of `discopop`'s switch between its two parts."""
    desirable_weight: float = Field(default=1.0, gt=0.0)
    """Weight of desirable answers in `kto`, beside the balance of their numbers."""
    undesirable_weight: float = Field(default=1.0, gt=0.0)
    """Weight of undesirable answers in `kto`, beside the balance of their numbers."""
    tag_weights: dict[str, NonNegativeFloat] = {}
    """Weight of a pair's loss by its tag, such as {safety: 2}; others count 1, and the mean over the pairs is kept at 1."""
    tag_shares: dict[str, Annotated[float, Field(ge=0.0, le=1.0)]] = {}
    """Share of an epoch's pairs by tag, such as {safety: 0.3}, met by repeating or leaving out; others divide the rest."""
    epochs: int = Field(default=1, ge=1)
    """Passes over the round's pairs."""
    pairs_per_step: int = Field(default=64, ge=1)
    """Pairs in one optimizer step, over all ranks and micro-batches."""
    micro_batch_pairs: int = Field(default=16, ge=1)
    """Pairs in one forward and backward pass on one rank; lower it when memory runs out."""
    learning_rate: float = Field(default=1e-6, gt=0.0, le=1.0)
    """Peak learning rate of AdamW."""
    warmup_share: float = Field(default=0.1, ge=0.0, le=1.0)
    """Share of the steps over which the learning rate rises linearly; it then falls linearly to zero."""
    weight_decay: float = Field(default=0.0, ge=0.0)
    """Decoupled weight decay of AdamW."""
    adam_beta2: float = Field(default=0.999, gt=0.0, lt=1.0)
    """Decay of AdamW's second-moment average."""
    max_grad_norm: float = Field(default=1.0, gt=0.0)
    """Gradients are scaled down to this global L2 norm."""
    gradient_checkpointing: bool = False
    """Recomputes activations in the backward pass: less memory, about a third more time."""
    zero_stage: Literal[0, 1, 2, 3] = 0
    """DeepSpeed ZeRO stage: what is sharded over the ranks (1 optimizer state, 2 and gradients, 3 and weights)."""
    offload: Literal["none", "optimizer", "optimizer_and_parameters"] = "none"
    """What DeepSpeed keeps in the host's memory: the optimizer's state (ZeRO 1 and up), or the sharded weights as well (ZeRO 3)."""
    num_processes: int = Field(default=0, ge=0)
    """Training processes on this machine; 0 takes one for each visible GPU, or one on a CPU."""
    checkpoint_every: int = Field(default=50, ge=1)
    """Optimizer steps between checkpoints that a killed run resumes from."""

    @property
    def losses(self) -> tuple[str, ...]:
        """Every loss that is minimised, the main one first."""
        return (self.loss, *self.added_losses)

    @model_validator(mode="after")
    def _losses_go_together(self) -> Self:
        if self.loss in self.added_losses:
            raise ValueError(f"added_losses names {self.loss}, which `loss` has already: leave it out, its weight is 1")
        odd = [name for name in self.losses if name not in MARGIN_LOSSES]
        if self.divergence != "reverse_kl" and odd:
            raise ValueError(f"divergence {self.divergence} needs losses of the margin and {odd[0]} is none: set `divergence: reverse_kl`")
        if self.label_smoothing and set(self.losses) <= UNSMOOTHED_LOSSES:
            raise ValueError(
                f"label_smoothing does nothing to {', '.join(self.losses)}: leave it out, or soften labels by preferences.soft_labels"
            )
        if "bco_pair" in self.added_losses:
            raise ValueError(
                "added_losses names bco_pair, which shifts by the main loss's rewards: name it as `loss` and add the other one"
            )
        if "exo_pair" in self.losses and self.label_smoothing == 0:
            raise ValueError("loss exo_pair is infinite with hard labels: set `label_smoothing`, such as 0.001")
        return self

    @model_validator(mode="after")
    def _offload_fits_the_stage(self) -> Self:
        least = {"none": 0, "optimizer": 1, "optimizer_and_parameters": 3}[self.offload]
        if self.zero_stage < least:
            raise ValueError(f"offload {self.offload} needs ZeRO stage {least}: set `zero_stage: {least}`, or `offload: none`")
        return self


class ConstraintsConfig(Section):
    """Rules that hold whatever the pairs prefer: a violation is added to the loss, weighed so that its mean stays under a limit."""

    banned_phrases: tuple[str, ...] = ()
    """Texts that no answer may contain; the violation is the policy's probability of the phrase where a pair's answer has it."""
    max_tokens: int = Field(default=0, ge=0)
    """Length ceiling of an answer in tokens; the violation is the probability of going on past it. 0 sets none."""
    mode: Literal["limit", "penalty"] = "limit"
    """`limit`: the weight is a Lagrange multiplier that keeps the mean violation under `limit`; `penalty`: the weight stays as it is."""
    limit: float = Field(default=0.05, ge=0.0)
    """Mean violation that is allowed, when `mode` is `limit`."""
    weight: float = Field(default=1.0, ge=0.0)
    """Weight of a violation in the loss: where the multiplier begins, or the fixed penalty."""
    step: float = Field(default=1.0, gt=0.0)
    """How fast the multiplier follows: its change a step for each unit of violation above the limit."""


class EvaluationConfig(Section):
    """How challenger, champion and start are compared on held-out prompts."""

    temperature: float = Field(default=1.0, gt=0.0, le=5.0)
    """Sampling temperature of the compared responses; KL to the start is unbiased at 1."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1.0)
    """Level of the bootstrap intervals."""
    bootstrap_resamples: int = Field(default=2000, ge=100, le=100000)
    """Resamples of the paired bootstrap over prompts."""
    num_samples: int = Field(default=24, ge=0)
    """Held-out prompts whose responses are kept side by side for reading."""


class GateConfig(Section):
    """When a challenger replaces the champion: the win rate's lower bound is above one half and no guard breaks."""

    max_length_ratio: float = Field(default=1.5, gt=0.0)
    """Guard: largest mean response length of the challenger, as a multiple of the champion's."""
    max_kl_to_start: float = Field(default=100.0, gt=0.0)
    """Guard: largest KL divergence from the start, in nats a response."""
    max_unfinished_share: float = Field(default=0.2, ge=0.0, le=1.0)
    """Guard: largest share of responses that are empty or cut by the length limit."""


class BudgetConfig(Section):
    """What one round may use before it stops. A start with a higher limit goes on; changing this needs no `--accept-changes`."""

    max_round_minutes: float = Field(default=0.0, ge=0.0)
    """Minutes of work on a round, over all its starts, after which it stops; 0 sets no limit."""
    cost_per_hour: float = Field(default=0.0, ge=0.0)
    """What an hour of the machine costs, in any currency; 0 says that the cost is not known."""
    max_round_cost: float = Field(default=0.0, ge=0.0)
    """Cost of a round, over all its starts, after which it stops, in the currency of `cost_per_hour`; 0 sets no limit."""

    @model_validator(mode="after")
    def _cost_is_known(self) -> Self:
        if self.max_round_cost and not self.cost_per_hour:
            raise ValueError("max_round_cost needs the price of an hour: set `cost_per_hour`")
        return self


class CampaignConfig(Section):
    """A campaign: a named, long-lived sequence of rounds on one policy."""

    campaign: str
    """Name of the campaign: letters, digits, dot, dash and underscore; it names the run directory, the MLflow experiment and the model."""
    seed: int = Field(default=17, ge=0, lt=2**31)
    """Every stage's random numbers derive from this, the round and the stage."""
    num_rounds: int = Field(default=1, ge=1, le=1000)
    """Rounds that one start adds to the campaign."""
    reference: Literal["start", "previous", "champion"] = "champion"
    """Policy the loss is measured against: round 0, the previous round's model (promoted or not), or the best promoted so far."""
    policy: PolicyConfig = PolicyConfig()
    lora: LoraConfig = LoraConfig()
    soft_prompt: SoftPromptConfig = SoftPromptConfig()
    prompts: PromptsConfig = PromptsConfig()
    generation: GenerationConfig = GenerationConfig()
    judge: JudgeConfig = JudgeConfig()
    evaluation_judge: JudgeConfig = Field(default_factory=lambda data: data["judge"])
    """Judge of the held-out comparison; left out, it is the same as `judge`."""
    preferences: PreferencesConfig = PreferencesConfig()
    validation: ValidationConfig = ValidationConfig()
    training: TrainingConfig = TrainingConfig()
    constraints: ConstraintsConfig = ConstraintsConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    gate: GateConfig = GateConfig()
    budget: BudgetConfig = BudgetConfig()

    @field_validator("campaign")
    @classmethod
    def _names_a_directory(cls, name: str) -> str:
        if not CAMPAIGN_NAME.fullmatch(name):
            raise ValueError("is no file name: use 1 to 64 letters, digits, dots, dashes or underscores, beginning with a letter or digit")
        return name

    @model_validator(mode="after")
    def _labels_fit_the_loss(self) -> Self:
        hard = [name for name in self.training.losses if name in HARD_LABEL_LOSSES]
        if hard and self.preferences.soft_labels != "none":
            raise ValueError(f"training.loss {hard[0]} takes hard labels only: set `preferences: {{soft_labels: none}}`, or another loss")
        return self

    @model_validator(mode="after")
    def _adapter_can_be_trained(self) -> Self:
        soft_prompt = self.soft_prompt.kind
        if self.lora.rank and soft_prompt != "none":
            raise ValueError("lora.rank and soft_prompt.kind are both set: set `lora: {rank: 0}` or `soft_prompt: {kind: none}`")
        if soft_prompt == "prefix" and self.training.gradient_checkpointing:
            raise ValueError("soft_prompt.kind prefix is lost by gradient checkpointing: set `training: {gradient_checkpointing: false}`")
        if self.policy.quantization != "none" and not self.lora.rank and soft_prompt == "none":
            raise ValueError("policy.quantization 4bit cannot train all weights: set `lora: {rank: 16}`, or `policy: {quantization: none}`")
        if self.policy.quantization != "none" and self.training.zero_stage == 3:
            raise ValueError("policy.quantization 4bit cannot be sharded: set `training: {zero_stage: 2}` or lower")
        return self


def load_config(path: Path, overrides: Mapping[str, Any] | None = None) -> CampaignConfig:
    """Reads a sparse YAML file into a full configuration.

    Args:
        path: YAML file whose keys are a subset of `CampaignConfig`'s.
        overrides: Values that win over the file's; a section's keys are replaced one by one.

    Raises:
        ValueError: The file cannot be read or parsed, or a key or value in it is wrong; one line that names it and the remedy.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"config file {path} does not exist: name a YAML file, such as conf/demo.yaml") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"config file {path} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"config file {path} is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ValueError(f"config file {path} holds no mapping: its top level must be `key: value` lines")
    try:
        return CampaignConfig.model_validate(_merged(values, overrides or {}))
    except ValidationError as error:
        raise ValueError(f"config file {path}: {describe(error)}") from None


def _merged(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(values)
    for key, value in overrides.items():
        below = merged.get(key)
        merged[key] = _merged(below if isinstance(below, dict) else {}, value) if isinstance(value, Mapping) else value
    return merged


def describe(error: ValidationError) -> str:
    """Says in one line what is wrong with a configuration: the key, the value and the remedy."""
    items = [item for item in error.errors(include_url=False) if item["type"] != "default_factory_not_called"]
    return "; ".join(_describe_one(item) for item in items)


def _describe_one(item: Mapping[str, Any]) -> str:
    location = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        *parents, key = item["loc"]
        known = list(_section_at(parents).model_fields)
        nearest = difflib.get_close_matches(str(key), known, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else f"known here: {', '.join(known)}"
        return f"unknown key {location}; {hint}"
    if item["type"] == "missing":
        return f"{location} is missing: add it"
    message = item["msg"].removeprefix("Value error, ")
    shown = "" if isinstance(item["input"], dict) else f" = {json.dumps(item['input'], default=str)}"
    return f"{location}{shown}: {message}"


def _section_at(parents: list[Any]) -> type[BaseModel]:
    section: type[BaseModel] = CampaignConfig
    for name in parents:
        annotation = section.model_fields[name].annotation
        assert isinstance(annotation, type)
        section = annotation
    return section


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Lists the keys in which two resolved configurations differ, as `key: old -> new`."""
    lines = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            lines += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            lines.append(f"{prefix}{key}: {json.dumps(before)} -> {json.dumps(after)}")
    return lines
