"""The gates of validation: whether a round's checked pairs may be trained on, and what to change if they may not."""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from components.artifacts import read_json
from components.data.funnel import LeftOut, Step, counted, step, too_little
from components.records import DataRejected, ValidateRequest

REMEDIES = {
    "prompt is longer than max_prompt_tokens": "raise policy.max_prompt_tokens",
    "chosen equals rejected as tokens within max_response_tokens": "raise policy.max_response_tokens",
    "prompt is held out": "name training prompts that are not held out",
    "prompt begins or continues a held-out conversation": "name training prompts of other conversations",
    "the chat template refuses the conversation": "change the prompts, or the model's chat template",
}
"""Remedies of the most common reasons for quarantine."""


@dataclass(frozen=True)
class Gates:
    """What became of a round's own pairs; replayed pairs do not count."""

    request: ValidateRequest
    received: int
    reasons: Mapping[str, int]
    """Pairs by the reason for their quarantine; a pair with several reasons counts for each."""
    quarantined: int
    kept_for_evaluation: int
    trained: int

    def check(self, train: pd.DataFrame) -> None:
        """Refuse the round's data.

        Args:
            train: The training pairs, replayed ones included.

        Raises:
            DataRejected: Too large a share is quarantined, too few pairs are left to train on, or single responses are
                all of one kind; the message says at which step the others were left out.
        """
        limits = self.request.validation
        share = self.quarantined / self.received if self.received else 0.0
        if share > limits.max_quarantine_share:
            raise DataRejected(
                too_little(
                    f"{self.quarantined} of {self.received} pairs ({share:.1%}) are quarantined, more than "
                    f"validation.max_quarantine_share = {limits.max_quarantine_share}",
                    [self._checked([])],
                    otherwise="see quarantine.parquet",
                )
            )
        if self.trained < limits.min_pairs:
            raise DataRejected(
                too_little(
                    f"{self.trained} of {self.received} pairs are left to train on, fewer than validation.min_pairs = "
                    f"{limits.min_pairs}{self._replayed(train)}",
                    self._steps(),
                    otherwise="raise prompts.per_round, or lower validation.min_pairs",
                )
            )
        if self.request.takes == "responses":
            self._refuse_one_kind(train)

    def _refuse_one_kind(self, train: pd.DataFrame) -> None:
        """Refuse responses that are all desirable, or all undesirable: the losses of single responses need both."""
        chosen, rejected, p = train["chosen"].notna(), train["rejected"].notna(), train["p"]
        desirable = float(p[chosen].sum() + (1 - p[rejected]).sum())
        undesirable = float((1 - p[chosen]).sum() + p[rejected].sum())
        if min(desirable, undesirable) > 0:
            return
        kind = "desirable" if desirable else "undesirable"
        raise DataRejected(
            too_little(
                f"all {len(train)} responses that are left to train on are {kind}, and both kinds are needed",
                self._steps(),
                otherwise="set preferences.threshold, or threshold_value, so that some scores are above it and some "
                "below",
            )
        )

    def _replayed(self, train: pd.DataFrame) -> str:
        replayed = len(train) - self.trained
        return f" ({replayed} replayed ones do not count)" if replayed else ""

    def _steps(self) -> list[Step]:
        """Return the steps from prompts to training pairs; earlier versions published none before validation."""
        collected = self.request.collected
        before = [] if collected is None else read_json(collected.path).get("left_out", [])
        kept = LeftOut(
            count=self.kept_for_evaluation,
            cause=f"kept for evaluation by validation.eval_share = {self.request.validation.eval_share:g}",
            remedy="lower validation.eval_share, or raise prompts.per_round",
        )
        return [*(Step.model_validate(each) for each in before), self._checked([kept])]

    def _checked(self, others: list[LeftOut]) -> Step:
        return step(self.received, "pairs", [*counted(self.reasons, REMEDIES), *others])
