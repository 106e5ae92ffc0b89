"""What a round trains on, from a judge's verdicts alone: pairs, or single responses."""

from collections.abc import Sequence

from components.config import PreferencesConfig
from components.judges.protocol import Group, Verdict
from components.preferences.judged_pairs import Built, build_pairs
from components.preferences.singles import build_singles


def build_from_verdicts(
    groups: Sequence[Group], verdicts: Sequence[Verdict], *, judge: str, preferences: PreferencesConfig, seed: int
) -> Built:
    """Builds what `preferences.pairs` names; arguments and errors as for `build_pairs`."""
    chosen = build_singles if preferences.pairs == "unpaired" else build_pairs
    return chosen(groups, verdicts, judge=judge, preferences=preferences, seed=seed)
