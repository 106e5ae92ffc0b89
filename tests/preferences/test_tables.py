"""Pairs written for other programs: what is written reads back as the same pair."""

from pathlib import Path

from components.data.preference_file import SeedPair, load_seed_pairs
from components.preferences.tables import pair_row, write_pairs, write_portable

ASK = [{"role": "system", "content": "Sei nett."}, {"role": "user", "content": "Grüß dich"}]


def test_portable_pairs_and_single_responses_read_back_as_they_were(tmp_path: Path) -> None:
    source = {"tag": "style", "judge": "j", "verdict_ids": ["v"]}
    rows = [
        pair_row(ASK, "good", "bad", p=0.75, margin=2.0, **source),  # type: ignore[arg-type]
        pair_row(ASK, "good", "worse", p=1.0, margin=None, **source),  # type: ignore[arg-type]
        pair_row(ASK, "fine", None, p=1.0, margin=1.0, **source),  # type: ignore[arg-type]
        pair_row(ASK, None, "poor", p=1.0, margin=1.0, **source),  # type: ignore[arg-type]
    ]
    write_pairs(tmp_path, rows)
    write_portable(tmp_path)
    assert load_seed_pairs(str(tmp_path / "preferences.jsonl"), split="train").pairs == [
        SeedPair(ASK, "good", "bad", 0.75, 2.0, "style"),
        SeedPair(ASK, "good", "worse", 1.0, None, "style"),
        SeedPair(ASK, "fine", None, 1.0, 1.0, "style"),
        SeedPair(ASK, None, "poor", 1.0, 1.0, "style"),
    ]
