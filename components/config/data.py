"""The prompts, the sampling of responses, and the conditions that a pair must satisfy."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from components.config.policy import BUILTIN
from components.config.section import Section

SamplingEngine = Literal["transformers", "vllm"]
"""Engine that samples responses."""
HeldOutBy = Literal["content", "conversation"]
"""What a training prompt must not have in common with a held-out one."""


class PromptsConfig(Section):
    """Where prompts come from."""

    train: str = BUILTIN
    """Training prompts: a JSONL, CSV or Parquet file, a saved or hub `datasets` name, or `builtin`."""
    held_out: str = BUILTIN
    """Held-out prompts, same forms as `train`; empty holds `num_held_out` of the training prompts out, chosen by
    content."""
    column: str = "prompt"
    """Column that holds the prompt: plain text, an HH transcript, or a list of chat messages (or its JSON text) with
    `role` and `content`. Columns `system` and `tools` belong to it."""
    train_split: str = "train"
    """Split that is read when `train` is a `datasets` name."""
    held_out_split: str = "test"
    """Split that is read when `held_out` is a `datasets` name."""
    train_revision: str = ""
    """Hub revision (branch, tag or commit) of `train`; empty is `main`. A campaign stays at the commit with which it
    began; local files ignore it."""
    held_out_revision: str = ""
    """The same of `held_out`."""
    held_out_by: HeldOutBy = "conversation"
    """Which training prompts and pairs are left out because of a held-out prompt: those of the same `content`, or also
    those that begin or continue its `conversation`."""
    per_round: int = Field(default=512, ge=1)
    """Prompts drawn for a round, without replacement until the pool is used up."""
    tag_column: str = ""
    """Column that holds a prompt's tag; its pairs get this tag in place of `preferences.tag`. Empty reads none."""
    tag_shares: dict[str, Annotated[float, Field(ge=0.0, le=1.0)]] = {}
    """Share of a round's prompts by tag, such as {math: 0.5}; prompts of all other tags divide the rest. Each tag's
    prompts are drawn without replacement until they are used up."""
    weight_column: str = ""
    """Column that holds a prompt's weight, above 0: over the rounds, one of weight 2 is drawn twice as often as one of
    weight 1, and never twice in a round. Empty draws all alike."""
    solved_rounds: int = Field(default=0, ge=0)
    """Rounds for which a prompt is left out of the draw after its responses gave no preference (ties, or none better by
    `preferences.min_margin`) or reached `solved_score`; 0 leaves none out."""
    solved_score: float | None = None
    """Mean score of a prompt's responses at which it counts as solved too, if `solved_rounds` is above 0; left out, no
    score counts."""
    num_held_out: int = Field(default=256, ge=1)
    """Held-out prompts that an evaluation uses; all of them if there are fewer."""

    ADDED_LATER: ClassVar[tuple[str, ...]] = (
        "tag_column",
        "tag_shares",
        "weight_column",
        "train_revision",
        "held_out_revision",
        "held_out_by",
    )
    FORMER_DEFAULTS: ClassVar[dict[str, Any]] = {"held_out_by": "content"}
    PATHS: ClassVar[tuple[str, ...]] = ("train", "held_out")

    @model_validator(mode="after")
    def _draw_is_possible(self) -> Self:
        if self.tag_shares and not self.tag_column:
            raise ValueError("tag_shares needs the tags of the prompts: name their column in `tag_column`")
        if sum(self.tag_shares.values()) > 1 + 1e-9:
            raise ValueError(f"tag_shares add up to {sum(self.tag_shares.values()):g}: they must not exceed 1")
        if self.weight_column and self.solved_rounds:
            raise ValueError("weight_column does not work with solved_rounds: leave one of them out")
        if self.train == BUILTIN and (self.tag_column or self.weight_column):
            raise ValueError("the built-in prompts have no columns: leave `tag_column` and `weight_column` out")
        return self

    @model_validator(mode="after")
    def _solved_prompts_rest(self) -> Self:
        if self.solved_score is not None and not self.solved_rounds:
            raise ValueError("solved_score does nothing while no prompt rests: set `solved_rounds`, such as 3")
        return self


class GenerationConfig(Section):
    """How responses are sampled from the current policy."""

    engine: SamplingEngine = "transformers"
    """Sampling engine, also in evaluation: `transformers` (our own loop over its models), or `vllm` in an environment
    of its own."""
    samples_per_prompt: int = Field(default=4, ge=2, le=256)
    """Responses sampled for each prompt."""
    temperature: float = Field(default=1.0, gt=0.0, le=5.0)
    """Divides the logits before sampling; below 1 sharpens, above 1 flattens."""
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    """Samples from the smallest set of tokens whose probability reaches this share; 1 keeps all tokens."""
    top_k: int = Field(default=0, ge=0)
    """Samples from the k most likely tokens; 0 keeps all tokens."""
    batch_size: int = Field(default=0, ge=0)
    """Prompts that are decoded together (times `samples_per_prompt` rows) by `transformers`; 0 takes as many as fit.
    Changes memory and speed only."""
    tensor_parallel_size: int = Field(default=1, ge=1)
    """GPUs over which vLLM spreads one copy of the policy, also in evaluation, for one that is too large for a GPU."""
    stop: tuple[str, ...] = ()
    """Texts that end a response, also in evaluation, such as `["\\nUser:"]`. The response keeps the tokens before the
    one in which the text begins, and counts as finished; no end token is added."""
    num_processes: int = Field(default=0, ge=0)
    """Processes on each node that share the prompts, also in evaluation; 0 takes one for each visible GPU, or for each
    `tensor_parallel_size` of them, or one on a CPU."""
    nodes: int = Field(default=1, ge=1)
    """Machines that share the prompts, started by the `launcher`."""

    ADDED_LATER: ClassVar[tuple[str, ...]] = ("stop", "tensor_parallel_size")
    FREE_TO_CHANGE: ClassVar[frozenset[str]] = frozenset({"nodes"})

    @model_validator(mode="after")
    def _engine_spreads_the_policy(self) -> Self:
        if self.tensor_parallel_size > 1 and self.engine != "vllm":
            raise ValueError(
                f"tensor_parallel_size {self.tensor_parallel_size} needs vLLM: set `engine: vllm`, or leave it out"
            )
        return self

    @field_validator("stop")
    @classmethod
    def _texts_can_be_found(cls, stop: tuple[str, ...]) -> tuple[str, ...]:
        for text in stop:
            if not text or "\ufffd" in text:
                raise ValueError(f"{text!r} cannot end a response: write the characters that do, or leave it out")
        return stop


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
    replay_decay: float = Field(default=1.0, gt=0.0, le=1.0)
    """Factor by which a replayed pair's weight in the loss falls with each round of its age; 1 lets old pairs count as
    new ones."""
    data_checks: Literal["off", "report", "enforce"] = "report"
    """Whether the checks of the section `checks` run on a round's pairs: `report` says what is above a limit, and
    `enforce` also stops the round if a check fails. Their rows stay; this section decides about those."""

    ADDED_LATER: ClassVar[tuple[str, ...]] = ("data_checks",)

    @field_validator("data_checks", mode="before")
    @classmethod
    def _off_is_a_word(cls, value: Any) -> Any:
        """Take YAML's `off`, which is false there, for the word."""
        return "off" if value is False else value
