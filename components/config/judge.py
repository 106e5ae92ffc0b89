"""Who decides which response is better."""

import json
from typing import ClassVar, Literal, Self

from pydantic import Field, JsonValue, field_validator, model_validator

from components.config.function import CallLimits, FunctionConfig, check_function_name
from components.config.people import PeopleConfig
from components.config.section import Section

OWN_FIELDS = {
    "model": "use endpoint.model",
    "messages": "they are the judge's question",
    "max_completion_tokens": "use endpoint.max_tokens, which is sent under this name to models that want it",
    "stream": "answers are read whole",
    "n": "one answer is read",
}
"""Fields of a request that the judge sets itself, and what to do instead."""


class EndpointConfig(Section):
    """An OpenAI-compatible chat endpoint, and what may be asked of it.

    Changing more than `model`, `output`, `max_tokens`, `request_fields` is free.
    """

    FREE_TO_CHANGE: ClassVar[frozenset[str]] = frozenset(
        {
            "url",
            "api_key_from",
            "timeout_seconds",
            "concurrency",
            "requests_per_minute",
            "tokens_per_minute",
            "max_attempts",
            "price_per_million_input",
            "price_per_million_output",
            "max_calls",
            "max_cost",
        }
    )
    """What no verdict depends on: a start may change it without --accept-changes, and nothing is asked or made
    again."""
    ADDED_LATER: ClassVar[tuple[str, ...]] = ("request_fields",)
    url: str = ""
    """Base address, such as http://127.0.0.1:8000/v1."""
    model: str = ""
    """Name of the model there."""
    api_key_from: str = ""
    """Where the key is: `env:NAME` or `prefect:SECRET_BLOCK`; empty sends none. The key itself is stored nowhere."""
    output: Literal["json_schema", "json_object", "text"] = "json_schema"
    """How the endpoint is asked for the verdict's form; use one that it supports. The answer is checked in any case."""
    max_tokens: int = Field(default=512, ge=1)
    """Longest answer of the judge, in tokens; the thoughts of a reasoning model count too."""
    request_fields: dict[str, JsonValue] = {}
    """More fields of each request, such as `{reasoning_effort: low}`; null leaves one out, such as `{temperature:
    null}`. The temperature is 0 unless it is set here, and is left out for a model that refuses it."""
    timeout_seconds: float = Field(default=120.0, gt=0.0)
    """Longest wait for one answer."""
    concurrency: int = Field(default=8, ge=1, le=256)
    """Requests at a time."""
    requests_per_minute: int = Field(default=0, ge=0)
    """Rate limit; 0 sets none."""
    tokens_per_minute: int = Field(default=0, ge=0)
    """Rate limit over prompt and answer tokens; 0 sets none."""
    max_attempts: int = Field(default=6, ge=1, le=50)
    """Attempts at one request that fails in a way that may pass: a lost connection, a time-out, 429, 5xx."""
    price_per_million_input: float = Field(default=0.0, ge=0.0)
    """Price of a million prompt tokens, in any currency; 0 means unknown."""
    price_per_million_output: float = Field(default=0.0, ge=0.0)
    """Price of a million answer tokens, in the same currency; 0 means unknown."""
    max_calls: int = Field(default=0, ge=0)
    """Calls of a stage after which the round stops; a later start continues it. 0 sets no limit."""
    max_cost: float = Field(default=0.0, ge=0.0)
    """Cost of a stage's calls after which the round stops; a later start continues it. 0 sets no limit."""

    @model_validator(mode="after")
    def _cost_is_known(self) -> Self:
        if self.max_cost and not (self.price_per_million_input and self.price_per_million_output):
            raise ValueError("max_cost needs prices: set `price_per_million_input` and `price_per_million_output`")
        return self

    @field_validator("request_fields")
    @classmethod
    def _fields_are_free(cls, fields: dict[str, JsonValue]) -> dict[str, JsonValue]:
        for name in fields:
            if name in OWN_FIELDS:
                raise ValueError(f"`{name}` cannot be set here: {OWN_FIELDS[name]}")
        if fields.get("max_tokens") is not None:
            raise ValueError("`max_tokens` cannot be set here: use endpoint.max_tokens")
        try:
            json.dumps(fields, allow_nan=False)
        except ValueError:
            raise ValueError("a field is not a finite number: JSON has no NaN and no infinity") from None
        return fields

    @model_validator(mode="after")
    def _cost_has_a_limit(self) -> Self:
        if self.max_cost and "max_tokens" in self.request_fields:
            raise ValueError("max_cost needs max_tokens: do not leave it out in `request_fields`")
        return self


class JudgeSettings(CallLimits):
    """What the kinds of judges read; a kind reads what names it."""

    ADDED_LATER: ClassVar[tuple[str, ...]] = (
        "hide_thoughts",
        "thought_tags",
        "function",
        "functions",
        "people",
        *CallLimits.CALL_LIMITS,
    )
    PATHS: ClassVar[tuple[str, ...]] = ("model", "prompt", "principles", "function")
    rule: str = "support_reply"
    """Name of the rule, when `kind` is `rule`."""
    model: str = ""
    """Local directory or hub name of the reward model, when `kind` is `reward_model`; the directory that `ratchet
    infer-reward` wrote, when it is `inferred_reward`."""
    revision: str = "main"
    """Hub revision of the reward model."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the reward model; `auto` as for the policy. Of an inferred reward, `auto` is its campaign's."""
    batch_size: int = Field(default=16, ge=1)
    """Texts that a reward model, or the policy as implicit reward, reads together."""
    max_tokens: int = Field(default=2048, ge=1)
    """Longest prompt plus response the reward model, or the inferred reward, reads, in tokens; a longer one gets an
    invalid verdict, never a score of its start."""
    endpoint: EndpointConfig = EndpointConfig()
    prompt: str = "plain"
    """Template of the pairwise question, for `llm` and `self`: `plain`, `concise` (length counts against an answer), or
    a file of yours."""
    principles: str = "helpful"
    """Principles, when `kind` is `constitution`: `helpful` (ours), or a YAML file with a list of `{name, text,
    weight}`."""
    comparisons: int = Field(default=0, ge=0)
    """Pairs of a prompt's responses that a comparing judge is asked about, chosen by content; 0 asks about all of
    them."""
    repeat_share: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of the comparisons that are asked twice, without the cache, to measure how stable the verdicts are."""
    people: PeopleConfig = PeopleConfig()
    """What people are asked, when `kind` is `people`."""
    hide_thoughts: bool = False
    """Whether the judge reads responses without what stands between `thought_tags`; training still trains on all of
    it. A response that ends within its thought is empty to the judge."""
    thought_tags: tuple[str, str] = ("<think>", "</think>")
    """What begins a thought and what ends it, if `hide_thoughts` is set."""

    @field_validator("thought_tags")
    @classmethod
    def _tags_differ(cls, tags: tuple[str, str]) -> tuple[str, str]:
        if not all(tags) or tags[0] == tags[1]:
            raise ValueError(f"{list(tags)} cannot mark a thought: write two different texts")
        return tags

    function: str = ""
    """Function that scores responses, when `kind` is `python`: `FILE.py:NAME`, or `package.module:NAME` of an installed
    module."""
    functions: tuple[FunctionConfig, ...] = ()
    """Several functions whose weighted sum is the score, when `kind` is `python`: a list of `{function, weight,
    arguments, form}`, instead of `function`."""

    @field_validator("function")
    @classmethod
    def _has_a_form(cls, function: str) -> str:
        return check_function_name(function)

    @property
    def all_functions(self) -> tuple[FunctionConfig, ...]:
        """The functions of a judge of kind `python`."""
        return self.functions or ((FunctionConfig(function=self.function),) if self.function else ())


SingleKind = Literal[
    "rule",
    "python",
    "reward_model",
    "implicit_reward",
    "inferred_reward",
    "llm",
    "self",
    "constitution",
    "debate",
    "people",
]
OWN_MODELS = {"implicit_reward", "self"}
"""Kinds that judge with the campaign's own policy."""
ASKED = frozenset({"llm", "constitution", "debate"})
"""Kinds that ask a chat endpoint."""
SCORES_ALONE = {"rule", "python", "reward_model", "implicit_reward", "inferred_reward"}
"""Kinds that score one response at a time; the others compare two."""


class JurorConfig(JudgeSettings):
    """One judge of a jury."""

    kind: SingleKind = "rule"
    """As for a judge; a jury holds no jury."""
    weight: float = Field(default=1.0, gt=0.0)
    """Votes that this juror has."""

    @model_validator(mode="after")
    def _kind_is_complete(self) -> Self:
        _check_kind(self, self.kind)
        return self


class JudgeConfig(JudgeSettings):
    """Who decides which response is better."""

    kind: Literal[
        "rule",
        "python",
        "reward_model",
        "implicit_reward",
        "inferred_reward",
        "llm",
        "self",
        "constitution",
        "debate",
        "people",
        "jury",
    ] = "rule"
    """`rule`: an allow-listed function of ours; `python`: a function of yours, in a process of its own; `reward_model`:
    a sequence-classification model with one output; `implicit_reward`: the policy's log-ratio against the start;
    `inferred_reward`: that of another campaign's champion, as `ratchet infer-reward` saved it; `llm`: a chat model at
    `endpoint`; `self`: the round's own policy, served here; `constitution`: a chat model at `endpoint`,
    asked principle by principle; `debate`: such a model after a case for each answer; `people`: people, on the page of
    `ratchet label`, for whom the round waits; `jury`: several of the others."""
    votes: Literal["majority", "bradley_terry", "dawid_skene"] = "majority"
    """How a jury's votes become one probability: `majority`, their weighted share; `bradley_terry`, strengths of a
    prompt's responses that explain them best; `dawid_skene`, where each juror's reliability is estimated from how the
    jurors agree over all pairs."""
    jurors: tuple[JurorConfig, ...] = ()
    """The judges of a jury, each with its `kind`, `weight` and what that kind reads."""

    @property
    def kinds(self) -> tuple[str, ...]:
        """Its own kind, and those of its jurors."""
        return (self.kind, *(juror.kind for juror in self.jurors))

    @property
    def is_paid_by_verdict(self) -> bool:
        """Whether a chat endpoint is asked, and nothing costs more if the same verdicts are asked in several calls.

        A model that is loaded for each call would cost more, and a reliability that is estimated over all verdicts
        would be worse.
        """
        kinds = set(self.kinds)
        return bool(kinds & ASKED) and kinds <= {*ASKED, "jury", "rule", "python"} and self.votes != "dawid_skene"

    @property
    def asked_people(self) -> tuple[PeopleConfig, ...]:
        """What people are asked, alone and as jurors; empty if they are not asked."""
        of_jurors = [juror.people for juror in self.jurors if juror.kind == "people"]
        return (*([self.people] if self.kind == "people" else []), *of_jurors)

    @property
    def asks_people(self) -> bool:
        """Whether people judge, alone or as one of its jurors."""
        return bool(self.asked_people)

    @property
    def reads_own_models(self) -> bool:
        """Whether it judges, or one of its jurors does, with the campaign's own policy."""
        return bool(OWN_MODELS & set(self.kinds))

    @model_validator(mode="after")
    def _kind_is_complete(self) -> Self:
        _check_kind(self, self.kind)
        if self.hide_thoughts and "implicit_reward" in self.kinds:
            raise ValueError(HIDDEN_FROM_POLICY)
        if self.kind == "jury" and len(self.jurors) < 2:
            raise ValueError("kind jury needs two jurors or more: list them in `jurors`")
        if len(self.asked_people) > 1:
            raise ValueError("people are several jurors: list them once, and raise `people.votes_per_pair`")
        if self.kind != "jury" and self.jurors:
            raise ValueError(f"jurors are listed but kind is {self.kind}: set `kind: jury`, or leave `jurors` out")
        if self.votes == "dawid_skene" and len({juror.weight for juror in self.jurors}) > 1:
            raise ValueError(
                "dawid_skene estimates each juror's weight: leave `weight` out, or set `votes` to majority or "
                "bradley_terry"
            )
        return self


HIDDEN_FROM_POLICY = (
    "hide_thoughts does not work with kind implicit_reward, which scores the tokens that the policy sampled: leave "
    "`hide_thoughts` out, or set it for the other jurors"
)


def _check_kind(judge: JudgeSettings, kind: str) -> None:
    if judge.hide_thoughts and kind == "implicit_reward":
        raise ValueError(HIDDEN_FROM_POLICY)
    if kind == "python" and bool(judge.function) == bool(judge.functions):
        raise ValueError(
            "kind python needs either `function`, such as my_rewards.py:score, or the list `functions`"
            + (", not both" if judge.function else "")
        )
    if kind != "python" and (judge.function or judge.functions):
        name = "function" if judge.function else "functions"
        raise ValueError(f"`{name}` is set but kind is {kind}: set `kind: python`, or leave `{name}` out")
    if kind == "reward_model" and not judge.model:
        raise ValueError("kind reward_model needs a model: name a local directory or a hub model in `model`")
    if kind == "inferred_reward" and not judge.model:
        raise ValueError("kind inferred_reward needs `model`: name the directory that `ratchet infer-reward` wrote")
    if kind in ("llm", "constitution", "debate"):
        missing = [name for name in ("url", "model") if not getattr(judge.endpoint, name)]
        if missing:
            raise ValueError(f"kind {kind} needs a chat endpoint: set `endpoint: {{url: ..., model: ...}}`")
    if kind == "self" and (judge.endpoint.url or judge.endpoint.model):
        raise ValueError(
            "kind self serves the policy itself: leave `endpoint.url` and `endpoint.model` out, or use kind llm"
        )
