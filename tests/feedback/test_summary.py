import pytest

from components.feedback.export import export_rows, write_export
from components.feedback.summary import compare_arms, count, latest_pair
from tests.feedback.thumbs import thumb


def test_counts_by_kind_and_model() -> None:
    rows = [
        thumb(1),
        thumb(2, thumb="down"),
        thumb(3, correction="Better.", round=0),
        thumb(4, served=False, round=None),
        thumb(5, messages=None, response=None, erased_at="now"),
    ]
    counts = count(rows, {"r1"})
    assert (counts.total, counts.unused, counts.erased, counts.unserved) == (5, 3, 1, 1)
    assert counts.kinds == {"up": 3, "down": 1, "correction": 1}
    assert counts.models["the start model"] == {"up": 0, "down": 0, "correction": 1}
    assert counts.models["round 1"] == {"up": 2, "down": 1, "correction": 0}


def test_canary_counts_a_conversation_once_by_its_latest_thumb() -> None:
    rows = [thumb(number, arm="champion", thumb="up" if number < 30 else "down") for number in range(100)]
    rows += [
        thumb(100 + number, arm="challenger", round=2, thumb="up" if number < 8 else "down") for number in range(10)
    ]
    rows += [thumb(200, conversation_id="v0", arm="champion", thumb="down")]  # changed their mind
    rows += [thumb(201, arm="champion", served=False), thumb(202, arm=None), thumb(203, arm="challenger", round=7)]
    thumbs = compare_arms(rows, champion=1, challenger=2)
    assert (thumbs.champion.up, thumbs.champion.conversations) == (29, 100)
    assert (thumbs.challenger.up, thumbs.challenger.conversations) == (8, 10)
    assert thumbs.difference is not None
    assert thumbs.difference.value == pytest.approx(0.51)
    assert 0 < thumbs.difference.low < 0.51 < thumbs.difference.high < 1
    assert latest_pair(rows) == (1, 7)
    assert latest_pair([thumb(1)]) is None


def test_canary_without_a_thumb_has_no_share() -> None:
    thumbs = compare_arms([thumb(1, arm="champion")], champion=1, challenger=2)
    assert thumbs.challenger.share_up is None
    assert thumbs.difference is None


def test_export_gives_rows_that_the_loader_reads(tmp_path) -> None:  # type: ignore[no-untyped-def]
    from components.data.preference_file import load_seed_pairs

    rows = [thumb(1, correction="Better."), thumb(2, correction="Best."), thumb(3, messages=None, response=None)]
    assert write_export(tmp_path / "pairs.jsonl", rows) == 2
    pairs = load_seed_pairs(str(tmp_path / "pairs.jsonl"), split="train", revision="").pairs
    assert [(pair.chosen, pair.rejected) for pair in pairs] == [("Better.", "answer 1"), ("Best.", "answer 2")]
    assert (tmp_path / "pairs.jsonl").stat().st_mode & 0o777 == 0o600
    with pytest.raises(ValueError, match="exists: name a new file"):
        write_export(tmp_path / "pairs.jsonl", rows)
    (single,) = export_rows([thumb(4, thumb="down")])
    assert (single["completion"][0]["content"], single["label"]) == ("answer 4", False)
