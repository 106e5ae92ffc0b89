"""All checks, in the order in which a report shows them; each has its limit in `ChecksConfig` under its name."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from components.checks.answers import cut_answers, refused_answers
from components.checks.balance import prompt_coverage, source_balance, tag_balance
from components.checks.columns import Columns
from components.checks.contradictions import consistency, contradictions
from components.checks.duplicates import ShinglesOf, duplicate_pairs, near_duplicate_answers, near_duplicate_prompts
from components.checks.entries import Entries, Flag
from components.checks.form import (
    different_prompts,
    empty_answers,
    identical_answers,
    identical_when_cut,
    malformed,
    near_identical_answers,
)
from components.checks.lengths import length_bias
from components.checks.outcome import Measure
from components.checks.personal_data import personal_data
from components.checks.secrets import secrets
from components.checks.text_damage import damaged_text, special_tokens
from components.checks.wrong_language import wrong_language
from components.config import ChecksConfig, Limit

RowsCheck = Callable[[Entries, ChecksConfig], Iterator[Flag]]
FileCheck = Callable[[Columns, ChecksConfig], Iterator[Flag]]
TextsCheck = Callable[[Columns, ChecksConfig, ShinglesOf], Iterator[Flag]]
MeasureCheck = Callable[[Columns, ChecksConfig], Measure]


class Check(NamedTuple):
    """A check; it has one of the four functions, or none if the scan runs it by itself."""

    name: str
    title: str
    remedy: str
    """What to do about rows that it finds, or about what it measures."""
    of_rows: RowsCheck | None = None
    """Reads the rows of a batch, in any process."""
    of_file: FileCheck | None = None
    """Reads the columns of the whole file."""
    of_texts: TextsCheck | None = None
    """The same, and some texts once more."""
    measures: MeasureCheck | None = None
    """Measures the whole file; it finds no rows."""

    def limit(self, config: ChecksConfig) -> Limit:
        """Return the check's limit."""
        limit = getattr(config, self.name)
        assert isinstance(limit, Limit), self.name
        return limit


LEAKAGE = "leakage"
"""The check that needs held-out prompts."""
CHECKS = (
    Check(
        "form",
        "Rows that are no pair",
        "Correct these rows or leave them out: no round takes a file that has them.",
        of_rows=malformed,
    ),
    Check(
        "different_prompts",
        "Answers to different prompts",
        "Leave them out: an answer to another prompt is no comparison.",
        of_rows=different_prompts,
    ),
    Check("empty_answers", "Empty chosen answers", "Leave them out: they teach to say nothing.", of_rows=empty_answers),
    Check(
        "identical_answers",
        "Identical answers",
        "Leave them out: there is nothing to prefer.",
        of_rows=identical_answers,
    ),
    Check(
        "identical_when_cut",
        "Identical answers when cut",
        "Raise policy.max_response_tokens and checks.response_characters, or leave them out.",
        of_rows=identical_when_cut,
    ),
    Check(
        "near_identical_answers",
        "Nearly identical answers",
        "Sample at a higher temperature, or ask for a larger margin: such pairs teach chance differences.",
        of_rows=near_identical_answers,
    ),
    Check(
        "duplicate_pairs",
        "Repeated pairs",
        "Keep one of each: copies weigh a pair more than others.",
        of_file=duplicate_pairs,
    ),
    Check(
        "contradictions",
        "Contradictions and circles",
        "Decide who is right, or give such pairs a p near one half.",
        of_file=contradictions,
    ),
    Check(
        "consistency",
        "Consistency of judgements",
        "Look at the annotators who contradict the others, and at what they were asked.",
        measures=consistency,
    ),
    Check(LEAKAGE, "Held-out prompts", "Leave them out: with them, the held-out comparison measures memory."),
    Check(
        "near_duplicate_prompts",
        "Near-duplicate prompts",
        "Keep one of each group, if the others add nothing.",
        of_texts=near_duplicate_prompts,
    ),
    Check(
        "near_duplicate_answers",
        "Near-duplicate answers",
        "Look for boilerplate and for answers that were pasted from elsewhere.",
        of_texts=near_duplicate_answers,
    ),
    Check(
        "special_tokens",
        "Special tokens and template marks",
        "Remove the marks: a tokenizer may read them as the end of a turn.",
        of_rows=special_tokens,
    ),
    Check("damaged_text", "Damaged text", "Read the source again with its own encoding.", of_rows=damaged_text),
    Check(
        "wrong_language",
        "Unexpected languages",
        "Leave them out, or name the languages that are meant in checks.languages.",
        of_file=wrong_language,
    ),
    Check(
        "cut_answers",
        "Cut answers",
        "Sample with a higher limit on tokens: a model that learns from cut answers does not stop.",
        of_rows=cut_answers,
    ),
    Check(
        "refused_answers",
        "Refusals that are chosen",
        "Look whether these prompts should be refused: a model learns to refuse more than them.",
        of_rows=refused_answers,
    ),
    Check(
        "length_bias",
        "Length bias",
        "Balance the lengths, or train with a loss that is normalised by them.",
        measures=length_bias,
    ),
    Check("tag_balance", "Balance of tags", "Draw the prompts by prompts.tag_shares.", measures=tag_balance),
    Check("source_balance", "Balance of sources", "Take fewer rows of the largest source.", measures=source_balance),
    Check(
        "prompt_coverage",
        "Coverage of prompts",
        "Take fewer pairs of the most frequent prompts.",
        measures=prompt_coverage,
    ),
    Check(
        "personal_data",
        "Personal data",
        "Replace them by made-up data before anybody else gets the file.",
        of_rows=personal_data,
    ),
    Check("secrets", "Secrets", "Have them revoked, since they are out, and remove them.", of_rows=secrets),
)
