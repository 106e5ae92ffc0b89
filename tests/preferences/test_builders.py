"""Builders: which pairs are chosen, which never are, and that no order changes the result."""

import math
import random
from collections import Counter
from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.config import PreferencesConfig
from components.judges.protocol import Group, Opinion, SampledTokens, Verdict, make_verdict
from components.preferences.builders import BUILDERS
from components.preferences.judged_pairs import build_pairs
from components.preferences.labels import soft_label
from components.preferences.no_pairs import judged_step

ASK = [{"role": "user", "content": "?"}]


def group(*texts: str, name: str = "p") -> Group:
    return Group(name, ASK, tuple(enumerate(texts)))


def scored(of: Group, *given: float | None) -> list[Verdict]:
    return [
        make_verdict("judge", of, number, Opinion(score))
        for (number, _), score in zip(of.responses, given, strict=True)
    ]


def compared(of: Group, said: dict[tuple[int, int], float]) -> list[Verdict]:
    return [
        make_verdict("judge", of, first, Opinion(score), opponent_id=second) for (first, second), score in said.items()
    ]


def pairs_of(of: Group, verdicts: list[Verdict], seed: int = 0, **knobs: object) -> list[tuple[str, str, float]] | str:
    """Return (chosen, rejected, p) of each pair of one prompt, or the reason if there is none."""
    built = build_pairs([of], verdicts, judge="judge", preferences=PreferencesConfig.model_validate(knobs), seed=seed)
    (outcome,) = built.outcomes.values()
    return [(row["chosen"], row["rejected"], row["p"]) for row in built.rows] if outcome == "paired" else outcome


def texts_of(*arguments: object, **knobs: object) -> list[str]:
    found = pairs_of(*arguments, **knobs)  # type: ignore[arg-type]
    assert isinstance(found, list), found
    return [chosen + rejected for chosen, rejected, _ in found]


FOUR = group("a", "b", "c", "d")


def test_best_worst_takes_the_extremes_and_the_first_of_equals() -> None:
    five = group("a", "b", "c", "d", "e")
    assert texts_of(five, scored(five, 1.0, 3.0, 0.5, 3.0, 0.5)) == ["bc"]


def test_best_random_takes_every_worse_response_but_no_equal_one() -> None:
    five = group("a", "b", "c", "d", "e")
    verdicts = scored(five, 3.0, 3.0, 2.0, 1.0, 0.0)
    drawn = Counter(texts_of(five, verdicts, seed, pairs="best_random")[0] for seed in range(300))
    assert drawn.keys() == {"ac", "ad", "ae"}
    assert min(drawn.values()) > 60


def test_best_random_draws_among_those_beyond_the_margin() -> None:
    three = group("a", "b", "c")
    verdicts = scored(three, 3.0, 2.5, 1.0)
    drawn = {texts_of(three, verdicts, seed, pairs="best_random", min_margin=0.5)[0] for seed in range(40)}
    assert drawn == {"ac"}


def test_all_pairs_takes_every_pair_beyond_the_margin_once() -> None:
    verdicts = scored(FOUR, 3.0, 2.5, 1.0, 1.0)
    assert texts_of(FOUR, verdicts, pairs="all_pairs") == ["ab", "ac", "ad", "bc", "bd"]
    assert texts_of(FOUR, verdicts, pairs="all_pairs", min_margin=0.5) == ["ac", "ad", "bc", "bd"]


def test_top_k_pairs_each_of_the_best_with_the_worst_of_the_rest() -> None:
    verdicts = scored(FOUR, 2.0, 0.5, 3.0, 1.0)
    assert texts_of(FOUR, verdicts, pairs="top_k", top_k=2) == ["cb", "ab"]
    assert texts_of(FOUR, verdicts, pairs="top_k", top_k=1) == ["cb"]
    # With fewer answers than k, the last one is still there to be rejected.
    assert texts_of(FOUR, verdicts, pairs="top_k", top_k=9) == ["cb", "ab", "db"]
    assert texts_of(FOUR, verdicts, pairs="top_k", top_k=3, min_margin=1.0) == ["cb", "ab"]


def test_length_balanced_offsets_the_length_that_the_pairs_before_have_gained() -> None:
    longer, three = group("u" * 9, "v" * 2, name="0"), group("x" * 5, "y" * 9, "z" * 2, name="1")
    verdicts = [*scored(longer, 1.0, 0.0), *scored(three, 3.0, 2.0, 1.0)]
    preferences = PreferencesConfig(pairs="length_balanced")

    def growths(*groups: Group) -> list[int]:
        built = build_pairs(groups, verdicts, judge="j", preferences=preferences, seed=0)
        return [len(row["chosen"]) - len(row["rejected"]) for row in built.rows]

    # The three answers offer -4 (x, y), 3 (x, z) and 7 (y, z): alone 3 is nearest to 0, and after a pair that gained 7
    # it is -4.
    assert growths(three) == [3]
    assert growths(longer, three) == [7, -4]
    assert growths(three, longer) == [-4, 7]


def test_length_balanced_lowers_the_mean_difference_in_length() -> None:
    chance = random.Random(5)
    groups, verdicts = [], []
    for number in range(200):
        lengths = [chance.randint(1, 60) for _ in range(4)]
        of = group(
            *(f"{letter}" * length for letter, length in zip("abcd", lengths, strict=True)), name=f"{number:03d}"
        )
        groups.append(of)
        verdicts += scored(of, *(length / 20 + chance.gauss(0, 1) for length in lengths))

    def mean_growth(**knobs: object) -> float:
        rows = build_pairs(
            groups, verdicts, judge="j", preferences=PreferencesConfig.model_validate(knobs), seed=1
        ).rows
        assert len(rows) == 200
        return sum(len(row["chosen"]) - len(row["rejected"]) for row in rows) / len(rows)

    assert mean_growth(pairs="best_worst") > 15
    assert abs(mean_growth(pairs="length_balanced")) < 1


def test_nash_ranks_by_wins_against_the_other_answers() -> None:
    three = group("a", "b", "c")
    said = {(0, 1): 0.6, (0, 2): 0.6, (1, 2): 1.0}
    # Win rates: a (0.6 + 0.6) / 2 = 0.6, b (0.4 + 1) / 2 = 0.7, c (0.4 + 0) / 2 = 0.2; a beats b, so those two are no
    # pair.
    assert pairs_of(three, compared(three, said), pairs="nash") == [("b", "c", pytest.approx((1 + 0.7 - 0.2) / 2))]
    assert texts_of(three, compared(three, said), pairs="nash", min_margin=0.3) == ["bc"]
    assert pairs_of(three, compared(three, said), pairs="nash", min_margin=0.5) == "below_margin"


def test_nash_of_a_judge_that_scores_counts_who_is_above_whom() -> None:
    verdicts = scored(FOUR, 100.0, 1.0, 1.0, 0.5)
    # Of three others: a beats 3, b and c beat 1 and tie 1, d beats none; the size of a score does not matter.
    ((chosen, rejected, p),) = pairs_of(FOUR, verdicts, pairs="nash")
    assert (chosen, rejected, p) == ("a", "d", 1.0)
    same = group("a", "a", "b")
    # An answer given twice ties with itself: 'a' wins (0.5 + 1) / 2, 'b' none of 2.
    assert pairs_of(same, scored(same, 2.0, 2.0, 1.0), pairs="nash") == [("a", "b", (1 + 0.75) / 2)]


@pytest.mark.parametrize("rule", sorted(BUILDERS))
@pytest.mark.parametrize(
    ("texts", "scores", "min_margin", "outcome"),
    [
        ((), (), 0.0, "no_verdict"),
        (("a",), (1.0,), 0.0, "no_verdict"),
        (("a", "b"), (1.0, math.nan), 0.0, "no_verdict"),
        (("a", "b"), (1.0, 1.0), 0.0, "ties"),
        (("a", "b"), (0.1 + 0.2, 0.3), 0.0, "ties"),
        (("a", " a\n"), (2.0, 1.0), 0.0, "ties"),
        (("a", "b"), (2.0, 2.0), 0.5, "ties"),
        (("a", "b"), (2.0, 1.0), 1.0, "below_margin"),
    ],
)
def test_prompt_that_gives_no_pair_says_why(
    rule: str, texts: tuple[str, ...], scores: tuple[float, ...], min_margin: float, outcome: str
) -> None:
    of = group(*texts)
    assert pairs_of(of, scored(of, *scores), 7, pairs=rule, min_margin=min_margin) == outcome


@pytest.mark.parametrize("rule", sorted(BUILDERS))
def test_ties_are_kept_as_halves_where_nothing_is_decided(rule: str) -> None:
    three = group("a", "b", " a")
    assert pairs_of(three, scored(three, 1.0, 1.0, 1.0), pairs=rule, ties="half") == [("a", "b", 0.5)]


def test_ties_beside_decided_pairs_are_halves_of_all_pairs_only() -> None:
    three = group("a", "b", "c")
    verdicts = scored(three, 1.0, 1.0, 0.0)
    assert pairs_of(three, verdicts, pairs="all_pairs", ties="half") == [
        ("a", "b", 0.5),
        ("a", "c", 1.0),
        ("b", "c", 1.0),
    ]
    assert pairs_of(three, verdicts, pairs="best_worst", ties="half") == [("a", "c", 1.0)]


def test_two_that_the_judge_called_equal_are_a_tie_whatever_their_other_comparisons_say() -> None:
    three = group("a", "b", "c")
    verdicts = compared(three, {(0, 1): 0.5, (0, 2): 1.0, (1, 2): 0.75})
    assert texts_of(three, verdicts, pairs="all_pairs") == ["ac", "bc"]
    assert pairs_of(three, verdicts, pairs="all_pairs", ties="half", soft_labels="verdict") == [
        ("a", "b", 0.5),
        ("a", "c", 1.0),
        ("b", "c", 0.75),
    ]


def test_margin_of_a_judge_that_compares_is_the_difference_of_mean_win_shares() -> None:
    three = group("a", "b", "c")
    verdicts = compared(three, {(0, 1): 0.9, (0, 2): 0.7, (1, 2): 0.6})
    built = build_pairs([three], verdicts, judge="j", preferences=PreferencesConfig(), seed=0)
    # Shares: a (0.9 + 0.7) / 2, c (0.3 + 0.4) / 2.
    assert built.rows[0]["margin"] == pytest.approx(0.8 - 0.35)


def test_label_of_the_verdict_is_what_was_said_of_exactly_these_two() -> None:
    three = group("a", "b", "c")
    verdicts = compared(three, {(1, 0): 0.2, (1, 2): 0.9})
    # Shares: a 0.8, b (0.2 + 0.9) / 2, c 0.1; a and c were not compared.
    assert pairs_of(three, verdicts, pairs="all_pairs", soft_labels="verdict") == [
        ("a", "b", pytest.approx(0.8)),
        ("b", "c", 0.9),
    ]
    assert pairs_of(three, verdicts, pairs="best_worst", soft_labels="verdict") == [("a", "b", pytest.approx(0.8))]
    assert texts_of(three, verdicts, pairs="best_worst") == ["ac"]


def test_prompt_of_which_no_two_were_compared_is_counted_as_such() -> None:
    two, other = group("a", "b"), group("c", "d", name="q")
    invalid = make_verdict("judge", other, 0, Opinion(None, "nonsense"), opponent_id=1)
    verdicts = [*compared(two, {(0, 1): 0.8}), *scored(other, 1.0, 2.0), invalid]
    preferences = PreferencesConfig(soft_labels="verdict")
    assert build_pairs([two, other], verdicts, judge="j", preferences=preferences, seed=0).outcomes == {
        "p": "paired",
        "q": "not_compared",
    }
    with pytest.raises(
        ValueError,
        match="needs a judge that compares responses, but j scores one response at a time: use bradley_terry",
    ):
        build_pairs([other], scored(other, 1.0, 2.0), judge="j", preferences=preferences, seed=0)


def test_responses_of_one_text_are_one_answer_so_that_no_pair_contradicts_another() -> None:
    four = group("a", "b", "a ", "c")
    verdicts = compared(four, {(0, 1): 1.0, (2, 1): 0.0, (0, 3): 1.0, (2, 3): 1.0, (1, 3): 1.0})
    # The judge preferred one copy of 'a' to 'b' and 'b' to the other copy, which is no preference between them.
    assert texts_of(four, verdicts, pairs="all_pairs") == ["ac", "bc"]


LETTERS = st.sampled_from(["a", "b b", "c" * 9, " a"])
PROMPTS = st.lists(
    st.lists(st.tuples(LETTERS, st.integers(-3, 3).map(lambda n: n / 2)), max_size=5), min_size=1, max_size=4
)


@given(
    rule=st.sampled_from(sorted(BUILDERS)),
    prompts=PROMPTS,
    compares=st.booleans(),
    min_margin=st.sampled_from([0.0, 0.3, 1.0]),
    ties=st.sampled_from(["drop", "half"]),
    seed=st.integers(0, 9),
    order=st.randoms(use_true_random=False),
)
def test_pairs_are_of_different_answers_in_one_order_and_any_order_of_the_tables(
    rule: str, prompts: list, compares: bool, min_margin: float, ties: str, seed: int, order: random.Random
) -> None:
    groups, verdicts = [], []
    for number, responses in enumerate(prompts):
        of = group(*(text for text, _ in responses), name=str(number))
        groups.append(of)
        worth = [score for _, score in responses]
        said = {(i, j): 0.5 + (worth[i] - worth[j]) / 6 for i, j in combinations(range(len(worth)), 2)}
        verdicts += compared(of, said) if compares else scored(of, *worth)
    preferences = PreferencesConfig.model_validate({"pairs": rule, "min_margin": min_margin, "ties": ties})
    built = build_pairs(groups, verdicts, judge="j", preferences=preferences, seed=seed)

    assert list(built.outcomes) == [of.prompt_id for of in groups]
    for row in built.rows:
        assert row["chosen"].strip() != row["rejected"].strip()
        assert (row["margin"] > min_margin and row["p"] > 0.5) or (ties == "half" and row["p"] == 0.5)
    for of in groups:
        found = {(row["chosen"].strip(), row["rejected"].strip()) for row in rows_of(built.rows, verdicts, of)}
        assert bool(found) == (built.outcomes[of.prompt_id] == "paired")
        assert is_acyclic(found)
    shuffled_groups, shuffled = groups[:], verdicts[:]
    order.shuffle(shuffled_groups)
    order.shuffle(shuffled)
    again = build_pairs(shuffled_groups, shuffled, judge="j", preferences=preferences, seed=seed)
    assert again.outcomes == built.outcomes
    assert sorted(map(content, again.rows)) == sorted(map(content, built.rows))


def rows_of(rows: list, verdicts: list[Verdict], of: Group) -> list:
    own = {verdict.verdict_id for verdict in verdicts if verdict.prompt_id == of.prompt_id}
    return [row for row in rows if own & set(row["verdict_ids"])]


def content(row: dict) -> tuple:
    return row["chosen"], row["rejected"], row["p"], round(row["margin"], 9), sorted(row["verdict_ids"])


def is_acyclic(edges: set[tuple[str, str]]) -> bool:
    """Return whether the preferences have no cycle."""
    left = set(edges)
    while left:
        rejected = {worse for _, worse in left}
        top = {(better, worse) for better, worse in left if better not in rejected}
        if not top:
            return False
        left -= top
    return True


def test_soft_label_is_the_bradley_terry_probability() -> None:
    config = PreferencesConfig(soft_labels="bradley_terry", soft_label_scale=2.0)
    assert soft_label(2 * math.log(3), config) == pytest.approx(0.75)
    assert soft_label(1e6, config) == 1.0
    assert soft_label(2 * math.log(3), PreferencesConfig(soft_label_scale=2.0)) == 1.0


def test_label_of_a_pair_whose_margin_hardly_counts_is_not_a_tie() -> None:
    two = group("a", "b")
    preferences = {"soft_labels": "bradley_terry", "soft_label_scale": 1e18}
    assert pairs_of(two, scored(two, 2.0, 1.0), **preferences) == [("a", "b", 0.5)]


def test_nash_refuses_labels_of_another_kind() -> None:
    with pytest.raises(ValueError, match="pairs nash takes p from the win rates: leave `soft_labels` out"):
        PreferencesConfig(pairs="nash", soft_labels="bradley_terry")


def cut_group(*texts: str) -> Group:
    """Return a group whose responses with a capital letter were cut by the length limit."""
    of = group(*texts)
    tokens = {
        number: SampledTokens((7,), "length" if text.isupper() else "stop", None) for number, text in of.responses
    }
    return replace(of, tokens=tokens)


@pytest.mark.parametrize(
    ("builder", "any_side", "whole_chosen"),
    [
        ("best_worst", ["Ad"], ["bd"]),
        ("all_pairs", ["Ab", "AC", "Ad", "bC", "bd", "Cd"], ["bC", "bd"]),
        ("top_k", ["Ad", "bd"], ["bd"]),
        ("nash", ["Ad"], ["bd"]),
        # All differences in length are 0, so the largest margin counts.
        ("length_balanced", ["Ad"], ["bd"]),
    ],
)
def test_cut_response_is_rejected_but_not_chosen(builder: str, any_side: list[str], whole_chosen: list[str]) -> None:
    of = cut_group("A", "b", "C", "d")
    verdicts = scored(of, 4.0, 3.0, 2.0, 1.0)
    assert texts_of(of, verdicts, pairs=builder) == any_side
    assert texts_of(of, verdicts, pairs=builder, cut_responses="rejected") == whole_chosen


def test_best_random_draws_among_those_that_a_whole_response_beats() -> None:
    of = cut_group("A", "b", "C", "d")
    verdicts = scored(of, 4.0, 3.0, 2.0, 1.0)
    drawn = {texts_of(of, verdicts, seed, pairs="best_random", cut_responses="rejected")[0] for seed in range(20)}
    assert drawn == {"bC", "bd"}


def test_prompt_whose_better_responses_are_all_cut_ends_so() -> None:
    of = cut_group("A", "b")
    assert pairs_of(of, scored(of, 2.0, 1.0), cut_responses="rejected") == "chosen_cut"
    assert pairs_of(of, scored(of, 1.0, 2.0), cut_responses="rejected") == [("b", "A", 1.0)]
    assert pairs_of(of, scored(of, 1.0, 1.0), cut_responses="rejected") == "ties"
    assert pairs_of(of, scored(of, 2.0, 1.0), cut_responses="rejected", min_margin=3.0) == "below_margin"
    assert pairs_of(of, scored(of, 1.0, 1.0), cut_responses="rejected", ties="half") == [("b", "A", 0.5)]
    both = cut_group("A", "B")
    assert pairs_of(both, scored(both, 1.0, 1.0), cut_responses="rejected", ties="half") == "chosen_cut"
    outside = group("A", "b")
    assert pairs_of(outside, scored(outside, 2.0, 1.0), cut_responses="rejected") == [("A", "b", 1.0)]


def test_response_cut_in_one_of_two_equal_texts_follows_the_tokens_that_the_pair_carries() -> None:
    of = group("a", "a", "b")
    whole_first = {0: "stop", 1: "length", 2: "stop"}
    for first, reasons in ((True, whole_first), (False, {**whole_first, 0: "length", 1: "stop"})):
        tokens = {number: SampledTokens((7,), reason, None) for number, reason in reasons.items()}
        found = pairs_of(replace(of, tokens=tokens), scored(of, 2.0, 2.0, 1.0), cut_responses="rejected")
        assert found == ([("a", "b", 1.0)] if first else "chosen_cut")


def test_round_without_a_pair_names_the_length_limit_that_cut_the_better_responses() -> None:
    groups = [replace(cut_group("A", "b"), prompt_id=name) for name in "pq"]
    verdicts = [verdict for of in groups for verdict in scored(of, 2.0, 1.0)]
    preferences = PreferencesConfig(cut_responses="rejected")
    built = build_pairs(groups, verdicts, judge="judge", preferences=preferences, seed=0)
    (left_out,) = judged_step(groups, built, preferences).left_out
    assert (left_out.count, left_out.cause) == (2, "the length limit cut the better responses")
    assert left_out.remedy.startswith("raise policy.max_response_tokens, or set preferences.cut_responses to any")
