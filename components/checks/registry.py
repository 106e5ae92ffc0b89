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
    Check("form", "Rows that are no pair", of_rows=malformed),
    Check("different_prompts", "Answers to different prompts", of_rows=different_prompts),
    Check("empty_answers", "Empty chosen answers", of_rows=empty_answers),
    Check("identical_answers", "Identical answers", of_rows=identical_answers),
    Check("identical_when_cut", "Identical answers when cut", of_rows=identical_when_cut),
    Check("near_identical_answers", "Nearly identical answers", of_rows=near_identical_answers),
    Check("duplicate_pairs", "Repeated pairs", of_file=duplicate_pairs),
    Check("contradictions", "Contradictions and circles", of_file=contradictions),
    Check("consistency", "Consistency of judgements", measures=consistency),
    Check(LEAKAGE, "Held-out prompts"),
    Check("near_duplicate_prompts", "Near-duplicate prompts", of_texts=near_duplicate_prompts),
    Check("near_duplicate_answers", "Near-duplicate answers", of_texts=near_duplicate_answers),
    Check("special_tokens", "Special tokens and template marks", of_rows=special_tokens),
    Check("damaged_text", "Damaged text", of_rows=damaged_text),
    Check("wrong_language", "Unexpected languages", of_file=wrong_language),
    Check("cut_answers", "Cut answers", of_rows=cut_answers),
    Check("refused_answers", "Refusals that are chosen", of_rows=refused_answers),
    Check("length_bias", "Length bias", measures=length_bias),
    Check("tag_balance", "Balance of tags", measures=tag_balance),
    Check("source_balance", "Balance of sources", measures=source_balance),
    Check("prompt_coverage", "Coverage of prompts", measures=prompt_coverage),
    Check("personal_data", "Personal data", of_rows=personal_data),
    Check("secrets", "Secrets", of_rows=secrets),
)
