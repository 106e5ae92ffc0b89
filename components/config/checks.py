"""The checks of preference data: their limits, and what becomes of a breach and of the rows behind it."""

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from components.config.section import Section


class Limit(Section):
    """The limit of a check: a share, what a breach does, and whether the rows that the check finds are set aside."""

    max_share: float = Field(ge=0.0, le=1.0)
    """Share above which the limit is broken: of rows, or of what the check measures."""
    on_breach: Literal["fail", "warn", "off"]
    """`fail` refuses the data, `warn` only says so, `off` does not run the check."""
    quarantine: bool
    """Whether the rows that the check finds go to quarantine, broken limit or not."""

    @field_validator("on_breach", mode="before")
    @classmethod
    def _off_is_a_word(cls, value: Any) -> Any:
        """Take YAML's `off`, which is false there, for the word."""
        return "off" if value is False else value


def _limit(max_share: float, on_breach: Literal["fail", "warn"], *, quarantine: bool = False) -> Any:
    return Limit(max_share=max_share, on_breach=on_breach, quarantine=quarantine)


class ChecksConfig(Section):
    """What preference data are checked for, by `ratchet validate` and in each round (docs/data-checks.md).

    A limit has three keys, and one that is left out keeps the default of its check: `max_share`, the share above which
    the limit is broken; `on_breach`, which is `fail`, `warn`, or `off` to leave the check out; and `quarantine`,
    whether the rows that the check finds are rejected, broken limit or not.
    """

    form: Limit = _limit(0.0, "fail", quarantine=True)
    """Rows that cannot be read as a pair, have an empty prompt, or a `p` outside [0, 1] or a `margin` below 0."""
    different_prompts: Limit = _limit(0.05, "warn", quarantine=True)
    """Rows whose two conversations differ before the last answer, so that there is no common prompt."""
    empty_answers: Limit = _limit(0.01, "fail", quarantine=True)
    """Rows whose chosen answer is empty."""
    identical_answers: Limit = _limit(0.02, "fail", quarantine=True)
    """Rows whose two answers are the same text."""
    identical_when_cut: Limit = _limit(0.02, "warn", quarantine=True)
    """Rows whose answers differ only behind `response_characters`."""
    near_identical_answers: Limit = _limit(0.1, "warn")
    """Rows whose answers are as alike as `identical_similarity`."""
    duplicate_pairs: Limit = _limit(0.02, "warn", quarantine=True)
    """Rows that repeat the pair of an earlier row."""
    contradictions: Limit = _limit(0.02, "fail", quarantine=True)
    """Rows that prefer A to B while others, directly or in a circle, prefer B to A."""
    near_duplicate_prompts: Limit = _limit(0.05, "warn")
    """Rows whose prompt is as alike as `duplicate_similarity` to another, different prompt."""
    near_duplicate_answers: Limit = _limit(0.05, "warn")
    """Rows with an answer that is as alike as `duplicate_similarity` to one of another prompt."""
    special_tokens: Limit = _limit(0.001, "fail", quarantine=True)
    """Rows with special tokens or marks of a chat template in a text."""
    damaged_text: Limit = _limit(0.001, "fail", quarantine=True)
    """Rows with U+FFFD, control characters, or UTF-8 that was read in another encoding."""
    wrong_language: Limit = _limit(0.02, "warn")
    """Rows with an answer in a language that is neither one of the data's nor its prompt's."""
    length_bias: Limit = _limit(0.65, "warn")
    """Share of pairs that a judge of length alone would get right."""
    tag_balance: Limit = _limit(0.9, "warn")
    """Share of pairs with the most frequent tag, if there are several tags."""
    source_balance: Limit = _limit(0.9, "warn")
    """Share of pairs from the most frequent source, if there are several sources."""
    prompt_coverage: Limit = _limit(0.05, "warn")
    """Share of pairs that belong to the most frequent prompt."""
    consistency: Limit = _limit(0.3, "warn")
    """Share of repeated judgements of the same two answers that contradict the majority."""
    leakage: Limit = _limit(0.0, "fail", quarantine=True)
    """Rows whose prompt is held out: the same content, nearly the same, or the same conversation at another length."""
    personal_data: Limit = _limit(0.01, "warn")
    """Rows with e-mail addresses, telephone, card, account or social security numbers, or public IP addresses."""
    secrets: Limit = _limit(0.0, "fail", quarantine=True)
    """Rows with keys, tokens or passwords in the formats of their vendors."""
    cut_answers: Limit = _limit(0.1, "warn")
    """Rows whose chosen answer ends in the middle of a sentence or of a block of code."""
    refused_answers: Limit = _limit(0.3, "warn")
    """Rows whose chosen answer refuses."""

    response_characters: int = Field(default=2048, ge=1)
    """Characters of an answer that are trained on. No tokenizer is at hand, so about four per token of
    `policy.max_response_tokens`."""
    duplicate_similarity: float = Field(default=0.7, ge=0.7, le=1.0)
    """Similarity of near duplicates: the exact Jaccard index of their sets of three words in a row. One other word
    among fifteen gives 0.7; below 0.7 too many would be missed."""
    identical_similarity: float = Field(default=0.9, ge=0.7, le=1.0)
    """The same of two answers to one prompt."""
    languages: tuple[str, ...] = ()
    """Languages that the answers may have, as ISO 639-1 codes such as `en`; empty takes those that at least
    `min_language_share` of the data have."""
    min_language_share: float = Field(default=0.05, gt=0.0, le=1.0)
    """Share of the recognised answers from which on a language belongs to the data."""
    min_language_confidence: float = Field(default=0.8, ge=0.0, le=1.0)
    """Probability below which a text has no recognised language."""
    phone_region: str = "US"
    """Country of telephone numbers without a country code, as an ISO 3166 code; empty finds only those with one."""

    @model_validator(mode="before")
    @classmethod
    def _keeps_what_is_left_out(cls, values: Any) -> Any:
        """Fill a limit's missing keys from the default of its check, not from those of another one."""
        if not isinstance(values, dict):
            return values
        limits = {
            name: field.default.model_dump()
            for name, field in cls.model_fields.items()
            if isinstance(field.default, Limit)
        }
        return {
            name: limits[name] | value if name in limits and isinstance(value, dict) else value
            for name, value in values.items()
        }
