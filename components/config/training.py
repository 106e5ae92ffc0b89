"""How the policy is trained on pairs."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, field_validator, model_validator

from components.config.function import CallLimits, check_function_name
from components.config.section import Section

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
    "apo_zero_unpaired",
    "sft",
    "rpo",
    "simpo",
    "orpo",
    "cpo",
]

Takes = Literal["pairs", "responses"]
"""Training data of a loss: pairs only, or single responses (desirable or not) as well."""
MARGIN_LOSSES = frozenset({"sigmoid", "sigmoid_norm", "ipo", "ipo_mean", "hinge", "robust", "exo_pair", "discopop"})
"""Losses whose log-ratios another divergence may replace."""

HARD_LABEL_LOSSES = frozenset({"aot", "aot_unpaired"})
"""Losses that take no probability of a label."""

RESPONSE_LOSSES = frozenset({"kto", "apo_zero_unpaired"})
"""Losses that take single responses, desirable or not, and pairs by taking them apart."""
UNSMOOTHED_LOSSES = frozenset(
    {
        "apo_down",
        "apo_zero",
        "apo_zero_unpaired",
        "bco_pair",
        "discopop",
        "dpop",
        "kto",
        "nca_pair",
        "orpo",
        "sft",
        "sppo",
        "sppo_hard",
    }
)
"""Losses that read no label smoothing."""


WITHOUT_REFERENCE = frozenset({"sft", "simpo", "orpo", "cpo"})
"""Losses that read no reference."""
BETA_OF_SUMS = 0.1
DEFAULT_BETA: dict[str, float] = {"simpo": 2.0, "sigmoid_norm": 5.0, "ipo_mean": 5.0}
"""Default of `beta` for losses of means per token, which are smaller than sums by the length of an answer. Those of
SimPO (arXiv 2405.14734) and of Tülu 3 (arXiv 2411.15124); for `ipo_mean`, the beta that asks for a margin of 0.1 nats
per token."""
USUAL_BETA = dict.fromkeys(DEFAULT_BETA, (0.5, 25.0))
"""Range within which published recipes choose `beta`, by loss."""
USUAL_BETA_OF_SUMS = (0.001, 1.0)
ADAPTER_LEARNING_RATE = 1e-4
"""Default learning rate of an adapter."""


class TrainingConfig(Section):
    """Direct Preference Optimization (Rafailov et al. 2023, arXiv 2305.18290) on the DeepSpeed engine."""

    loss: LossName = "sigmoid"
    """Preference loss; `sigmoid` is DPO, `ipo` takes sums of log-probabilities and `ipo_mean` their means, `simpo`,
    `orpo`, `cpo` and `sft` need no reference."""
    added_losses: dict[LossName, PositiveFloat] = {}
    """Further losses with their weights, such as {sft: 0.2}; they are added to `loss`, whose weight is 1."""
    beta: float = Field(default_factory=lambda data: DEFAULT_BETA.get(data["loss"], BETA_OF_SUMS), gt=0.0)
    """Strength of the pull towards the reference: larger stays closer. Left out, it is 2 for `simpo`, 5 for
    `sigmoid_norm` and `ipo_mean`, whose margins are means per token, and 0.1 for all others."""
    label_smoothing: float = Field(default=0.0, ge=0.0, lt=0.5)
    """Assumed share of flipped labels (conservative DPO); `exo_pair` needs it above 0."""
    divergence: Literal["reverse_kl", "forward_kl", "js", "alpha"] = "reverse_kl"
    """Divergence that keeps the policy near the reference (f-DPO, arXiv 2309.16240); all but `reverse_kl` need losses
    of the margin only."""
    divergence_alpha: float = Field(default=0.5, ge=0.0, le=1.0)
    """Alpha of the divergence `alpha`: 0 is the reverse KL, 1 the forward KL."""
    ld_alpha: float = Field(default=1.0, ge=0.0, le=1.0)
    """Weight of the longer answer's tail in what is compared with the reference (LD-DPO, arXiv 2409.06411); 1 counts it
    in full, lower curbs growing length."""
    weighting: Literal["none", "wpo"] = "none"
    """`wpo` weighs a pair by how likely the policy itself would answer so (arXiv 2406.11827): for pairs that are not
    its own."""
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
    """Weight of a pair's loss by its tag, such as {safety: 2}; others count 1, and the mean over the pairs is kept at
    1."""
    tag_shares: dict[str, Annotated[float, Field(ge=0.0, le=1.0)]] = {}
    """Share of an epoch's pairs by tag, such as {safety: 0.3}, met by repeating or leaving out; others divide the
    rest."""
    reference_sync_steps: int = Field(default=0, ge=0)
    """Optimizer steps after which the policy becomes the reference again (TR-DPO's hard update, arXiv 2404.09656); 0:
    never."""
    epochs: int = Field(default=1, ge=1)
    """Passes over the round's pairs."""
    pairs_per_step: int = Field(default=16, ge=1)
    """Pairs in one optimizer step, over all ranks and micro-batches."""
    micro_batch_tokens: int = Field(default=0, ge=0)
    """Tokens in one pass with gradients on a rank, prompts once; 0: 8192 on a GPU, 1024 (bf16: 1536) on a CPU. A longer
    pair is alone."""
    micro_batch_pairs: int = Field(default=0, ge=0)
    """Pairs in one forward and backward pass on one rank, to be lowered when memory runs out; 0 sets no limit but the
    tokens."""
    learning_rate: float = Field(default=5e-6, gt=0.0, le=1.0)
    """Peak learning rate of AdamW. A campaign that trains an adapter and leaves it out has 1e-4."""
    warmup_share: float = Field(default=0.1, ge=0.0, le=1.0)
    """Share of the steps over which the learning rate rises linearly; `schedule` says how it then falls."""
    schedule: Literal["linear", "cosine", "constant", "inverse_sqrt", "wsd"] = "linear"
    """Learning rate behind the warm-up: `linear` and `cosine` fall to zero, `wsd` (warm-up, stable, decay) stays at the
    peak and falls linearly over the last `decay_share` of the steps, `inverse_sqrt` falls as the steps grow."""
    decay_share: float = Field(default=0.1, ge=0.0, le=1.0)
    """Share of the steps over which `wsd` falls at the end."""
    min_learning_rate_share: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Floor of the schedule behind the warm-up, as a share of the peak: a fall to 0 becomes one to this share."""
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
    """Parts that DeepSpeed keeps in the host's memory: the optimizer's state (ZeRO 1 and up), or the sharded weights
    too (ZeRO 3)."""
    num_processes: int = Field(default=0, ge=0)
    """Training processes on each node; 0 takes one for each visible GPU, or one on a CPU."""
    nodes: int = Field(default=1, ge=1)
    """Machines that train together, started by the `launcher`."""
    checkpoint_every: int = Field(default=50, ge=1)
    """Optimizer steps between checkpoints that a killed run resumes from."""
    eval_every: int = Field(default=0, ge=0)
    """Optimizer steps between evaluations on the round's held-back pairs (`validation.eval_share`); the last step is
    evaluated too. 0 evaluates only after the training."""
    keep: Literal["last", "best"] = "last"
    """Weights that a round publishes: those behind the last step, or behind the evaluation that was best by
    `best_by`. The best are kept on disk meanwhile, 4 bytes per trained weight."""
    best_by: Literal["loss", "rewards/accuracies", "rewards/margins"] = "loss"
    """Metric of the held-back pairs by which `keep` and `patience` compare evaluations; a lower loss is better, and a
    higher accuracy or margin."""
    patience: int = Field(default=0, ge=0)
    """Evaluations in a row that are not better than the best one, after which the training stops; 0 never stops."""
    keep_masters: bool = True
    """Publishes the fp32 masters of bfloat16 weights beside them, from which the next round trains on; without them,
    changes below 0.2 % of a weight are lost after each round. 4 bytes per trained weight on disk, twice the model's
    size, until `ratchet gc`; nothing in float32."""
    ADDED_LATER: ClassVar[tuple[str, ...]] = (
        "nodes",
        "keep_masters",
        "schedule",
        "decay_share",
        "min_learning_rate_share",
        "eval_every",
        "keep",
        "best_by",
        "patience",
    )
    FORMER_DEFAULTS: ClassVar[dict[str, float]] = {"learning_rate": 1e-6, "pairs_per_step": 64, "beta": 0.1}
    """Defaults of 0.1. A campaign that began with one keeps it, as long as its configuration leaves the key out."""

    @property
    def losses(self) -> tuple[str, ...]:
        """Every loss that is minimised, the main one first."""
        return (self.loss, *self.added_losses)

    @property
    def takes(self) -> Takes:
        """Whether single responses may be trained on."""
        return "responses" if self.loss in RESPONSE_LOSSES and not self.added_losses else "pairs"

    @property
    def doubts(self) -> list[str]:
        """What a start should say about these settings, one line each; none of it stops a start."""
        lines = []
        if self.ld_alpha < 1 and set(self.losses) <= WITHOUT_REFERENCE:
            lines.append(
                f"training.ld_alpha = {self.ld_alpha:g} has no effect on {', '.join(self.losses)}, which compares "
                "nothing with a reference: leave it out"
            )
        for loss in self.losses:
            low, high = USUAL_BETA.get(loss, USUAL_BETA_OF_SUMS)
            if loss != "sft" and not low <= self.beta <= high:
                lines.append(
                    f"training.beta = {self.beta:g} is far from what {loss} is used with ({low:g} to {high:g}): leave "
                    "`beta` out for the loss's own default, or expect other margins than in the papers"
                )
        return lines

    @model_validator(mode="after")
    def _losses_go_together(self) -> Self:
        if self.loss in self.added_losses:
            raise ValueError(f"added_losses names {self.loss}, which `loss` has already: leave it out, its weight is 1")
        odd = [name for name in self.losses if name not in MARGIN_LOSSES]
        if self.divergence != "reverse_kl" and odd:
            raise ValueError(
                f"divergence {self.divergence} needs losses of the margin, and {odd[0]} is not one: "
                "set `divergence: reverse_kl`"
            )
        if self.label_smoothing and set(self.losses) <= UNSMOOTHED_LOSSES:
            raise ValueError(
                f"label_smoothing has no effect on {', '.join(self.losses)}: "
                "leave it out, or soften labels with preferences.soft_labels"
            )
        if "bco_pair" in self.added_losses:
            raise ValueError(
                "added_losses names bco_pair, which shifts by the main loss's rewards: make it `loss` and add the "
                "other one"
            )
        if "exo_pair" in self.losses and self.label_smoothing == 0:
            raise ValueError("loss exo_pair is infinite with hard labels: set `label_smoothing`, such as 0.001")
        return self

    @model_validator(mode="after")
    def _something_follows_the_policy(self) -> Self:
        if self.reference_sync_steps and set(self.losses) <= WITHOUT_REFERENCE:
            raise ValueError(
                f"reference_sync_steps has no effect on {', '.join(self.losses)}, which reads no reference: leave it "
                f"out"
            )
        return self

    @model_validator(mode="after")
    def _schedule_reads_its_shares(self) -> Self:
        if self.schedule != "wsd" and self.decay_share != TrainingConfig.model_fields["decay_share"].default:
            raise ValueError(f"decay_share has no effect on schedule {self.schedule}: set `schedule: wsd`")
        if self.schedule == "wsd" and self.warmup_share + self.decay_share > 1:
            raise ValueError(
                f"warmup_share {self.warmup_share:g} and decay_share {self.decay_share:g} are more than all steps: "
                "lower one of them"
            )
        if self.schedule == "constant" and self.min_learning_rate_share:
            raise ValueError(
                "min_learning_rate_share has no effect on schedule constant, which never falls: leave it out"
            )
        return self

    @model_validator(mode="after")
    def _evaluations_are_made_and_read(self) -> Self:
        needs = {"keep best": self.keep == "best", f"patience {self.patience}": self.patience > 0}
        reading = [name for name, given in needs.items() if given]
        if reading and not self.eval_every:
            raise ValueError(f"{reading[0]} needs evaluations during the training: set `eval_every`, such as 10")
        if self.best_by != "loss" and not reading:
            raise ValueError(f"best_by {self.best_by} has no effect without `keep: best` or `patience`: leave it out")
        return self

    @model_validator(mode="after")
    def _offload_fits_the_stage(self) -> Self:
        least = {"none": 0, "optimizer": 1, "optimizer_and_parameters": 3}[self.offload]
        if self.zero_stage < least:
            raise ValueError(
                f"offload {self.offload} needs ZeRO stage {least}: set `zero_stage: {least}`, or `offload: none`"
            )
        return self


class ConstraintsConfig(CallLimits):
    """Rules that hold whatever the pairs prefer.

    A violation is added to the loss, weighed so that its mean stays under a limit.
    """

    ADDED_LATER: ClassVar[tuple[str, ...]] = ("function", *CallLimits.CALL_LIMITS)
    PATHS: ClassVar[tuple[str, ...]] = ("function",)

    banned_phrases: tuple[str, ...] = ()
    """Texts that no answer may contain; the violation is the policy's probability of the phrase in the pairs' answers
    that have it."""
    max_tokens: int = Field(default=0, ge=0)
    """Length ceiling of an answer in tokens; the violation is the probability of going on past it. 0 sets none."""
    function: str = ""
    """Function of yours, as for a judge of kind `python`, that returns how far a response breaks a rule, in [0, 1] or a
    bool; the violation is this times the policy's geometric mean probability of the answer's tokens."""
    mode: Literal["limit", "penalty"] = "limit"
    """`limit`: the weight is a Lagrange multiplier that keeps the mean violation under `limit`; `penalty`: the weight
    stays as it is."""
    limit: float = Field(default=0.05, ge=0.0)
    """Mean violation that is allowed, when `mode` is `limit`."""
    weight: float = Field(default=1.0, ge=0.0)
    """Weight of a violation in the loss: the multiplier's first value, or the fixed penalty."""
    step: float = Field(default=1.0, gt=0.0)
    """How fast the multiplier follows: its change per step and unit of violation above the limit."""

    @field_validator("function")
    @classmethod
    def _has_a_form(cls, function: str) -> str:
        return check_function_name(function)
