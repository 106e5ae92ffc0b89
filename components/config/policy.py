"""The model that is aligned, and the weights of it that are trained."""

from collections.abc import Mapping
from datetime import date
from typing import ClassVar, Literal, Self

from pydantic import Field, JsonValue, field_validator, model_validator

from components.config.section import Section

BUILTIN = "builtin"
RESERVED_ARGUMENTS = frozenset(
    {
        "conversation",
        "messages",
        "chat_template",
        "add_generation_prompt",
        "continue_final_message",
        "tokenize",
        "return_dict",
        "return_tensors",
        "strftime_now",
    }
)
"""Arguments of `apply_chat_template` that no configuration may set."""


def check_template_settings(arguments: Mapping[str, JsonValue], template_date: str) -> None:
    """Check what a configuration passes to a chat template.

    Raises:
        ValueError: An argument is set for each call, or the date does not exist.
    """
    taken = RESERVED_ARGUMENTS & arguments.keys()
    if taken:
        raise ValueError(f"chat_template_arguments: {min(taken)} is set for each call: remove it")
    if template_date:
        try:
            date.fromisoformat(template_date)
        except ValueError:
            raise ValueError(f"template_date {template_date} is not a date: use YYYY-MM-DD") from None


class PolicyConfig(Section):
    """The model that is being aligned."""

    model: str = BUILTIN
    """Start model: a local directory, a hub name, or `builtin` (a starter of about a million parameters, trained on
    first use)."""
    revision: str = "main"
    """Hub revision (branch, tag or commit) of `model`; a campaign stays at the commit with which it began. Local
    directories ignore it."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of weights and compute; `auto` is bfloat16 if the accelerator or processor has it natively, else
    float32."""
    quantization: Literal["none", "4bit"] = "none"
    """`4bit` holds the frozen weights as NF4 in every stage and trains an adapter on them (QLoRA, arXiv 2305.14314);
    needs bitsandbytes."""
    max_prompt_tokens: int = Field(default=512, ge=1, le=131072)
    """Longest prompt in tokens, chat template included; a pair with a longer prompt is quarantined, never cut."""
    max_response_tokens: int = Field(default=512, ge=1, le=131072)
    """Longest response in tokens: sampling stops there, and training and validation cut a response there."""
    chat_template_arguments: dict[str, JsonValue] = {}
    """Arguments of the model's chat template, by name, such as `{enable_thinking: false}` or `{tools: [...]}`; used in
    every stage."""
    template_date: str = Field(default="", pattern=r"^(\d{4}-\d{2}-\d{2})?$")
    """Date (YYYY-MM-DD) that a chat template which writes today's date reads in every stage; empty takes the day on
    which the campaign began."""

    system_prompt: str = ""
    """System message in front of every prompt that has none of its own, in every stage: sampling, judging, training and
    evaluation; white space around it is removed. Empty adds none."""

    ADDED_LATER: ClassVar[tuple[str, ...]] = ("chat_template_arguments", "template_date", "system_prompt")
    PATHS: ClassVar[tuple[str, ...]] = ("model",)

    @field_validator("system_prompt")
    @classmethod
    def _is_text(cls, text: str) -> str:
        if text and not text.strip():
            raise ValueError("holds only white space: write a text, or leave it out")
        return text.strip()

    @model_validator(mode="after")
    def _template_takes_them(self) -> Self:
        check_template_settings(self.chat_template_arguments, self.template_date)
        return self


class LoraConfig(Section):
    """Low-rank adapters in place of training all weights (Hu et al. 2021, arXiv 2106.09685)."""

    rank: int = Field(default=0, ge=0, le=1024)
    """Rank of the adapter; 0 trains all weights."""
    alpha: int = Field(default=32, ge=1, le=4096)
    """Scale of the adapter: its output is multiplied by alpha / rank."""
    rank_stabilized: bool = False
    """Multiplies it by alpha / sqrt(rank) instead (rsLoRA, arXiv 2312.03732), so that high ranks learn as fast as low
    ones."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Share of the adapter's inputs that a training step drops (0.05 is common); everything that is measured, the
    first loss and the reference too, is computed without dropout."""
    kind: Literal["lora", "dora"] = "lora"
    """`lora`, or `dora`: a trained magnitude beside the low-rank direction (Liu et al. 2024, arXiv 2402.09353); slower,
    often better."""
    target_modules: str = "all-linear"
    """Module names to adapt, separated by commas, or `all-linear` for every linear layer but the head."""
    modules_to_save: str = ""
    """Names of modules whose own weights are trained beside the adapter and saved with it, separated by commas, such as
    `embed_tokens, lm_head` for new tokens. If head and embedding are one tensor, naming one of them trains that one."""

    ADDED_LATER: ClassVar[tuple[str, ...]] = ("rank_stabilized", "dropout", "modules_to_save")

    @property
    def saved_modules(self) -> list[str]:
        """The names in `modules_to_save`, in order."""
        return sorted({name.strip() for name in self.modules_to_save.split(",") if name.strip()})

    @model_validator(mode="after")
    def _settings_have_a_rank(self) -> Self:
        for name in ("rank_stabilized", "dropout", "modules_to_save"):
            if getattr(self, name) and not self.rank:
                raise ValueError(f"{name} needs a rank: set `lora: {{rank: 16}}` beside it, or leave `{name}` out")
        if self.kind == "dora" and not self.rank:
            raise ValueError("kind dora needs a rank: set `lora: {kind: dora, rank: 16}`, or leave `kind` out")
        twice = {name.strip() for name in self.target_modules.split(",")} & set(self.saved_modules)
        if twice:
            raise ValueError(f"target_modules and modules_to_save both name {min(twice)}: leave it out of one of them")
        return self


class SoftPromptConfig(Section):
    """Virtual tokens before every prompt, trained in place of the model's weights."""

    kind: Literal["none", "prompt", "prefix"] = "none"
    """`prompt`: embeddings before the first layer (Lester et al. 2021, arXiv 2104.08691); `prefix`: keys and values in
    every layer (Li and Liang 2021, arXiv 2101.00190). Both change the model before the first step, so a campaign's
    first loss is not ln 2."""
    num_tokens: int = Field(default=16, ge=1, le=1024)
    """Virtual tokens; they take their places in the model's context."""
