import math
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from components.artifacts import derive_seed, read_json, read_table
from components.builtin.world import held_out_prompts
from components.evaluation.answers import Answers, answer
from components.generation import engines
from components.models.loading import load_policy, load_tokenizer
from components.models.tokens import ChatTokenizer
from components.records import EvaluateRequest, ModelRef
from components.runtime import progress
from components.runtime.launch import Placement, run_stage
from tests.evaluation.conftest import STOPS

Make = Callable[..., EvaluateRequest]
SEEDS = [derive_seed(5, number) for number in range(12)]


def prompts_for(ref: ModelRef) -> list[list[int]]:
    chat = ChatTokenizer(load_tokenizer(ref))
    return [chat.prompt_ids(messages) for messages in held_out_prompts()[:12]]


def answered(request: EvaluateRequest) -> Answers:
    return answer(request, prompts_for(request.start), SEEDS)


def texts(answers: Answers, name: str) -> list[str]:
    return [response.text for response in answers.responses[name]]


def test_answers_of_equal_weights_under_another_digest_are_other_draws_without_divergence(
    make_request: Make, models: dict[str, ModelRef]
) -> None:
    twin = models["start"].model_copy(update={"digest": "the same weights, unbeknown"})
    answers = answered(make_request("start", "near").model_copy(update={"challenger": twin}))
    assert texts(answers, "challenger") != texts(answers, "start")
    assert max(abs(ratio) for ratio in answers.log_ratios) < 1e-5


def test_answers_of_one_digest_have_exactly_no_divergence(make_request: Make) -> None:
    assert answered(make_request("start", "start")).log_ratios == [0.0] * 12


def test_answers_drawn_by_vllm_are_scored_as_all_others(make_request: Make, stand_in_vllm: None) -> None:
    answers = answered(make_request("terse", "near").model_copy(update={"engine": "vllm"}))
    assert len({tuple(texts(answers, name)) for name in ("start", "champion", "challenger")}) == 3
    tokens = {name: sum(len(response.token_ids) for response in answers.responses[name]) for name in answers.responses}
    assert tokens["challenger"] < tokens["start"]
    assert all(math.isfinite(ratio) and ratio != 0 for ratio in answers.log_ratios)


def test_answers_of_different_models_differ(make_request: Make) -> None:
    answers = answered(make_request("near", "rambling"))
    assert len({tuple(texts(answers, name)) for name in ("start", "champion", "challenger")}) == 3


def test_answers_measure_the_log_ratio_of_the_challengers_own_responses(make_request: Make) -> None:
    """The planted models sample all words alike, so the ratio depends only on the number of words and the finish."""
    answers = answered(make_request("terse", "near"))
    assert len({len(response.token_ids) for response in answers.responses["challenger"]}) > 1
    for response, ratio in zip(answers.responses["challenger"], answers.log_ratios, strict=True):
        ends = response.finish_reason == "stop"
        expected = (len(response.token_ids) - ends) * math.log(0.4 / 0.9) + ends * math.log(0.6 / 0.1)
        assert ratio == pytest.approx(expected, abs=1e-4)


def probability_of_the_end(stop: float, words: int, temperature: float) -> float:
    """Probability of the end token of a planted model at a sampling temperature."""
    end, word = stop ** (1 / temperature), ((1 - stop) / words) ** (1 / temperature)
    return end / (end + words * word)


@pytest.mark.parametrize(("challenger", "temperature"), [("terse", 0.3), ("near", 0.7), ("rambling", 1.5)])
def test_answers_measure_the_log_ratio_of_the_law_that_was_sampled(
    challenger: str, temperature: float, make_request: Make
) -> None:
    """At temperature 1 of what was sampled at another one, the mean is not a divergence, and can be far below 0."""
    request = make_request(challenger, "start")
    evaluation = request.evaluation.model_copy(update={"temperature": temperature})
    answers = answered(request.model_copy(update={"evaluation": evaluation}))
    tokenizer = load_tokenizer(request.start)
    words = len(tokenizer) - len(tokenizer.all_special_ids)
    ours, theirs = (probability_of_the_end(STOPS[name], words, temperature) for name in (challenger, "start"))
    for response, ratio in zip(answers.responses["challenger"], answers.log_ratios, strict=True):
        ends = response.finish_reason == "stop"
        spoken = len(response.token_ids) - ends
        expected = spoken * math.log((1 - ours) / (1 - theirs)) + ends * math.log(ours / theirs)
        assert ratio == pytest.approx(expected, abs=2e-3)


def test_answers_load_each_model_once_and_never_hold_two(make_request: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[Any] = []

    def counting(*args: Any, **kwargs: Any) -> Any:
        assert all(earlier() is None for earlier in loaded), "the model before is still in memory"
        model = load_policy(*args, **kwargs)
        loaded.append(weakref.ref(model))
        return model

    monkeypatch.setattr(engines, "load_policy", counting)
    answered(make_request("rambling", "near"))
    assert len(loaded) == 3
    answered(make_request("rambling", "start"))
    assert len(loaded) == 5
    answered(make_request("start", "start"))
    assert len(loaded) == 6


def test_answers_follow_the_temperature(make_request: Make) -> None:
    request = make_request("near", "start")
    cold = request.model_copy(update={"evaluation": request.evaluation.model_copy(update={"temperature": 1e-4})})
    one, other = answer(cold, prompts_for(request.start), SEEDS), answer(cold, prompts_for(request.start), SEEDS[::-1])
    assert texts(one, "challenger") == texts(other, "challenger")
    assert texts(answered(request), "challenger") != texts(one, "challenger")


def test_truncated_answers_are_those_of_the_law_that_is_served_and_the_divergence_stays(make_request: Make) -> None:
    """The planted model ends with probability 0.6 at every place: its most likely token is the end."""
    whole = make_request("terse", "near")
    for law in ({"top_k": 1}, {"top_p": 0.5}):
        settings = whole.evaluation.model_copy(update=law)
        served = answered(whole.model_copy(update={"evaluation": settings}))
        assert {len(response.token_ids) for response in served.responses["challenger"]} == {1}
        assert served.log_ratios == answered(whole).log_ratios, "the divergence is that of whole distributions"


def test_truncated_answers_report_progress_over_the_samples_of_the_divergence_too(make_request: Make) -> None:
    steps: list[tuple[int, int]] = []

    class Listener:
        def began(self, round: str, stage: str) -> None: ...
        def ended(self, round: str, stage: str, seconds: float, *, already_done: bool) -> None: ...
        def advanced(self, done: int, total: int, text: str) -> None:
            if text == "held-out responses":
                steps.append((done, total))

    request = make_request("terse", "near")
    settings = request.evaluation.model_copy(update={"top_p": 0.9})
    with progress.reporting_to(Listener()):
        answered(request.model_copy(update={"evaluation": settings}))
    assert steps == [(number * 12, 48) for number in (1, 2, 3, 4)]


def test_answers_report_progress_over_all_models(make_request: Make, tmp_path: Path) -> None:
    reports: list[tuple[int, int]] = []

    class Heard:
        def began(self, round: str, stage: str) -> None: ...

        def advanced(self, done: int, total: int, text: str) -> None:
            if text == "held-out responses":
                reports.append((done, total))

        def ended(self, round: str, stage: str, seconds: float, *, already_done: bool) -> None: ...

    with progress.reporting_to(Heard()):
        answered(make_request("rambling", "near", batch_size=8))
    assert reports == [(8, 36), (12, 36), (20, 36), (24, 36), (32, 36), (36, 36)]


def test_ranks_share_sampling_and_scoring(make_request: Make, tmp_path: Path) -> None:
    for name, ranks in (("alone", 1), ("two", 2)):
        run_stage("evaluate", make_request("rambling", "near"), tmp_path / name, where=Placement(num_processes=ranks))
    alone, two = (tmp_path / name / "evaluate" for name in ("alone", "two"))
    one, other = (read_json(out / "evaluation.json") for out in (alone, two))
    for name in ("value", "low", "high"):
        assert other["kl_to_start_interval"].pop(name) == pytest.approx(one["kl_to_start_interval"].pop(name), rel=1e-5)
    assert other.pop("kl_to_start") == pytest.approx(one.pop("kl_to_start"), rel=1e-5)
    assert other == one
    pd.testing.assert_frame_equal(read_table(two / "samples.parquet"), read_table(alone / "samples.parquet"))


def test_answers_end_at_stop_strings_and_one_without_tokens_has_no_divergence(make_request: Make) -> None:
    request = make_request("terse", "near")
    first = texts(answered(request), "challenger")
    place = next(place for place, text in enumerate(first) if text)
    # What an answer begins with ends it before its first token.
    stop = (first[place].split()[0],)
    answers = answered(request.model_copy(update={"stop": stop}))
    assert not any(stop[0] in text for name in answers.responses for text in texts(answers, name))
    assert (answers.responses["challenger"][place].token_ids, answers.log_ratios[place]) == ([], 0.0)
    for response, ratio in zip(answers.responses["challenger"], answers.log_ratios, strict=True):
        ends = response.finish_reason == "stop" and not response.stopped_by_text
        expected = (len(response.token_ids) - ends) * math.log(0.4 / 0.9) + ends * math.log(0.6 / 0.1)
        assert ratio == pytest.approx(expected, abs=1e-4)
    assert not any(response.unfinished for response in answers.responses["challenger"] if response.stopped_by_text)
