import itertools
import json
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from components.artifacts import derive_seed, file_digest, read_json, read_table, write_table
from components.builtin.world import train_prompts
from components.config import GenerationConfig, PolicyConfig
from components.data.messages import Messages, format_messages
from components.data.prompts import make_prompt
from components.generation.responses import Response, respond
from components.generation.sampler import sample
from components.generation.sampling_params import SamplingParams
from components.generation.stage import run
from components.models.loading import load_policy, load_tokenizer, start_ref
from components.models.tokens import ChatTokenizer
from components.records import Artifact, GenerateRequest, JudgedRound
from components.runtime import progress
from components.runtime.launch import Placement, run_stage


class _Heard:
    """Records progress reports."""

    def __init__(self) -> None:
        self.reports: list[tuple[int, int, str]] = []

    def began(self, round: str, stage: str) -> None:
        raise AssertionError("a stage does not announce itself")

    def advanced(self, done: int, total: int, text: str) -> None:
        self.reports.append((done, total, text))

    def ended(self, round: str, stage: str, seconds: float, *, already_done: bool) -> None:
        raise AssertionError("a stage does not announce its end")


class _Listener(_Heard):
    """Records the beginning and end of a stage too."""

    def began(self, round: str, stage: str) -> None: ...

    def ended(self, round: str, stage: str, seconds: float, *, already_done: bool) -> None: ...


def write_pool(path: Path, conversations: list[Messages]) -> Artifact:
    prompts = [make_prompt(messages) for messages in conversations]
    write_table(
        path,
        pd.DataFrame(
            {"prompt_id": [p.prompt_id for p in prompts], "messages": [format_messages(p.messages) for p in prompts]}
        ),
    )
    return Artifact(path=path, digest=file_digest(path))


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return write_pool(tmp_path_factory.mktemp("pool") / "train_prompts.parquet", train_prompts()[:40])


@pytest.fixture
def request_for(starter_directory: Path, pool: Artifact) -> Any:
    def make(*, limits: dict[str, Any] | None = None, **changes: Any) -> GenerateRequest:
        settings: dict[str, Any] = {
            "policy": start_ref(starter_directory, revision="main"),
            "limits": PolicyConfig(
                **{"dtype": "float32", "max_prompt_tokens": 64, "max_response_tokens": 24, **(limits or {})}
            ),
            "prompts": pool,
            "per_round": 12,
            "solved_rounds": 0,
            "solved_score": None,
            "earlier": (),
            "round": 1,
            "campaign_seed": 17,
            "generation": GenerationConfig(samples_per_prompt=3, batch_size=8),
            "seed": 99,
        }
        return GenerateRequest(**{**settings, **changes})

    return make


def generated(request: GenerateRequest, out: Path) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Any]]:
    out.mkdir()
    run(request, out)
    assert {path.name for path in out.iterdir()} == {"prompts.parquet", "responses.parquet", "generate.json"}
    return read_table(out / "prompts.parquet"), read_table(out / "responses.parquet"), read_json(out / "generate.json")


def test_generation_answers_every_drawn_prompt_as_often_as_asked(request_for: Any, tmp_path: Path) -> None:
    request = request_for()
    heard = _Heard()
    with progress.reporting_to(heard):
        prompts, responses, counts = generated(request, tmp_path / "out")
    assert len(prompts) == prompts["prompt_id"].nunique() == 12
    assert counts["sampling"] == {"way": "shared prompts", "reason": None}
    expected = [(name, number) for name in prompts["prompt_id"] for number in range(3)]
    assert list(zip(responses["prompt_id"], responses["sample_id"], strict=True)) == expected
    assert responses["seed"].tolist() == [derive_seed(99, name, number) for name, number in expected]
    assert responses["n_tokens"].tolist() == [len(ids) for ids in responses["token_ids"]]
    assert responses["n_tokens"].between(1, 24).all()
    assert counts["responses"] == len(responses) == 36
    assert counts["tokens"] == responses["n_tokens"].sum()
    assert counts["empty"] == (responses["text"].str.strip() == "").sum()
    assert counts["unfinished"] + counts["empty"] <= 36
    assert counts["skipped_long_prompts"] == 0
    answers = [
        list(ids[:-1]) if reason == "stop" else list(ids)
        for ids, reason in zip(responses["token_ids"], responses["finish_reason"], strict=True)
    ]
    pairs = [pair for ids in answers for pair in itertools.pairwise(ids)]
    assert counts["diversity"]["distinct_1"] == len({token for ids in answers for token in ids}) / sum(
        map(len, answers)
    )
    assert counts["diversity"]["distinct_2"] == len(set(pairs)) / len(pairs)
    texts = responses["text"].str.strip().groupby(responses["prompt_id"])
    equal = [sum(a == b for a, b in itertools.combinations(of_prompt, 2)) / 3 for _, of_prompt in texts]
    assert counts["diversity"]["equal_samples"] == pytest.approx(sum(equal) / 12)
    assert [(done, total) for done, total, _ in heard.reports] == [(0, 36), (24, 36), (36, 36)]


def test_generation_at_temperature_zero_or_so_shows_that_all_samples_are_equal(
    request_for: Any, tmp_path: Path
) -> None:
    greedy = GenerationConfig(samples_per_prompt=3, batch_size=8, top_k=1)
    *_, counts = generated(request_for(generation=greedy), tmp_path / "out")
    assert (counts["diversity"]["equal_samples"], counts["diversity"]["all_equal"]) == (1.0, 1.0)


def test_round_of_long_prompts_says_how_many_others_rest(request_for: Any, tmp_path: Path, pool: Artifact) -> None:
    """Without them, a user wonders where the shorter prompts of the pool are."""
    names = read_table(pool)["prompt_id"].tolist()
    outcomes = pd.DataFrame(
        {"prompt_id": names[:30], "outcome": "ties", "pairs": 0, "tied_pairs": 0, "mean_score": 1.0}
    )
    write_table(tmp_path / "outcomes.parquet", outcomes)
    earlier = JudgedRound(round=1, outcomes=Artifact(path=tmp_path / "outcomes.parquet", digest="0"))
    request = request_for(limits={"max_prompt_tokens": 2}, per_round=10, solved_rounds=3, round=2, earlier=(earlier,))
    told = (
        r"all 10 prompts of the round are longer than policy.max_prompt_tokens = 2: 40 training prompts \(30 x solved, "
        r"and resting by prompts.solved_rounds = 3\) gave 10 drawn prompts \(10 x longer than .* \(the shortest has "
        r"\d+ tokens\)\): raise policy.max_prompt_tokens"
    )
    with pytest.raises(ValueError, match=told):
        generated(request, tmp_path / "out")


def test_generation_keeps_special_tokens_out_of_the_text_and_the_stop_token_in_the_ids(
    request_for: Any, tmp_path: Path
) -> None:
    request = request_for(per_round=30)
    _, responses, _ = generated(request, tmp_path / "out")
    tokenizer = load_tokenizer(request.policy)
    finished = responses[responses["finish_reason"] == "stop"]
    cut = responses[responses["finish_reason"] == "length"]
    assert len(finished) > 0
    assert len(cut) > 0
    assert all(ids[-1] == tokenizer.eos_token_id for ids in finished["token_ids"])
    assert all(len(ids) == 24 and tokenizer.eos_token_id not in ids for ids in cut["token_ids"])
    assert not responses["text"].str.contains("<|", regex=False).any()
    for text, ids in zip(finished["text"], finished["token_ids"], strict=True):
        said = [token for token in ids if token not in tokenizer.all_special_ids]
        assert text == tokenizer.decode(said)


def test_generation_of_the_same_request_gives_the_same_bytes(request_for: Any, tmp_path: Path) -> None:
    for name in ("first", "second"):
        generated(request_for(), tmp_path / name)
    for path in (tmp_path / "first").iterdir():
        assert path.read_bytes() == (tmp_path / "second" / path.name).read_bytes(), path.name


def test_generation_with_the_batches_that_fit_gives_the_same_responses(request_for: Any, tmp_path: Path) -> None:
    _, one, _ = generated(request_for(), tmp_path / "one")
    _, other, _ = generated(request_for(generation=GenerationConfig(samples_per_prompt=3)), tmp_path / "other")
    assert one["text"].tolist() == other["text"].tolist()


def test_ranks_share_the_prompts_and_give_the_same_responses(request_for: Any, tmp_path: Path) -> None:
    heard = _Listener()
    with progress.reporting_to(heard):
        for name, ranks in (("alone", 1), ("two", 2)):
            run_stage("generate_responses", request_for(), tmp_path / name, where=Placement(num_processes=ranks))
    alone, two = (tmp_path / name / "generate_responses" for name in ("alone", "two"))
    assert (
        read_table(two / "responses.parquet")["text"].tolist()
        == read_table(alone / "responses.parquet")["text"].tolist()
    )
    assert read_json(two / "generate.json") == read_json(alone / "generate.json")
    assert (two / "prompts.parquet").read_bytes() == (alone / "prompts.parquet").read_bytes()
    assert heard.reports[-1][:2] == (36, 36)


def test_more_ranks_than_prompts_are_idle(request_for: Any, tmp_path: Path) -> None:
    run_stage("generate_responses", request_for(per_round=1), tmp_path, where=Placement(num_processes=2))
    assert len(read_table(tmp_path / "generate_responses" / "responses.parquet")) == 3


def test_generation_with_another_seed_gives_other_responses_to_the_same_prompts(
    request_for: Any, tmp_path: Path
) -> None:
    prompts, responses, _ = generated(request_for(), tmp_path / "one")
    same, reseeded, _ = generated(request_for(seed=100), tmp_path / "other")
    assert prompts["prompt_id"].tolist() == same["prompt_id"].tolist()
    assert responses["text"].tolist() != reseeded["text"].tolist()


def test_generation_of_several_rounds_draws_each_prompt_once(request_for: Any, tmp_path: Path) -> None:
    """Rounds have different seeds; the order of the pool must not matter."""
    rounds = [
        generated(request_for(round=number, seed=number), tmp_path / str(number))[0]["prompt_id"]
        for number in (1, 2, 3)
    ]
    assert pd.concat(rounds).nunique() == 36


def test_generation_counts_a_prompt_that_is_too_long_and_gives_it_no_responses(
    request_for: Any, tmp_path: Path
) -> None:
    long = [{"role": "user", "content": " ".join(messages[0]["content"] for messages in train_prompts()[:8])}]
    pool = write_pool(tmp_path / "pool.parquet", [*train_prompts()[:5], long])
    prompts, responses, counts = generated(request_for(prompts=pool), tmp_path / "out")
    assert (counts["prompts"], counts["skipped_long_prompts"], counts["responses"]) == (6, 1, 15)
    assert set(prompts["prompt_id"]) - set(responses["prompt_id"]) == {make_prompt(long).prompt_id}


def test_generation_with_only_long_prompts_says_which_limit_to_raise(request_for: Any, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(
        ValueError, match=r"all 12 prompts of the round are longer than policy.max_prompt_tokens = 2: .*: raise policy"
    ):
        run(request_for(limits={"max_prompt_tokens": 2}), tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_generate_samples_with_vllm_where_it_is_asked_to(request_for: Any, stand_in_vllm: None, tmp_path: Path) -> None:
    prompts, responses, counts = generated(
        request_for(generation=GenerationConfig(samples_per_prompt=2, engine="vllm")), tmp_path / "out"
    )
    assert len(responses) == counts["responses"] == 2 * len(prompts)
    tokenizer = load_tokenizer(request_for().policy)
    for row in responses.itertuples():
        said = row.token_ids[:-1] if row.finish_reason == "stop" else row.token_ids
        assert row.text == tokenizer.decode(said, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        assert (row.finish_reason == "stop") == (row.token_ids[-1] == tokenizer.eos_token_id)


def test_respond_leaves_an_ordinary_stop_word_out_of_the_text(starter_directory: Path) -> None:
    start = start_ref(starter_directory, revision="main")
    tokenizer, model = load_tokenizer(start), load_policy(start, dtype=torch.float32, device=torch.device("cpu"))
    words = frozenset(set(range(len(tokenizer))) - set(tokenizer.all_special_ids))
    rule = SamplingParams(temperature=1.0, top_p=1.0, top_k=0, max_new_tokens=6, stop_ids=words)
    chat = ChatTokenizer(tokenizer)
    prompt = chat.prompt_ids(train_prompts()[0])
    draw = partial(sample, model, pad_id=0, batch_size=1)
    answers = respond(draw, chat, [prompt], seeds=[range(8)], law=rule, on_batch=lambda batch: None)[0]
    stopped = [answer for answer in answers if answer.finish_reason == "stop"]
    assert len(stopped) > 4
    for answer in stopped:
        assert answer.token_ids[-1] in words
        assert answer.text == chat.text([token for token in answer.token_ids if token not in words])


@pytest.mark.parametrize(
    ("text", "reason", "empty", "unfinished"),
    [
        ("Yes.", "stop", False, False),
        (" \n", "stop", True, False),
        ("Ye", "length", False, True),
        ("  ", "length", True, False),
    ],
)
def test_response_is_empty_or_unfinished_but_never_both(text: str, reason: Any, empty: bool, unfinished: bool) -> None:
    response = Response(text, [5], reason)
    assert (response.empty, response.unfinished) == (empty, unfinished)


def test_generation_with_stop_strings_keeps_the_tokens_in_front_of_them(request_for: Any, tmp_path: Path) -> None:
    def make(stop: tuple[str, ...]) -> GenerateRequest:
        return request_for(per_round=30, generation=GenerationConfig(samples_per_prompt=3, stop=stop))

    stops = ("Your order", "sorry")
    _, without, _ = generated(make(()), tmp_path / "without")
    _, responses, counts = generated(make(stops), tmp_path / "out")
    chat = ChatTokenizer(load_tokenizer(make(()).policy))
    ended = 0
    for whole, row in zip(without.to_dict("records"), responses.to_dict("records"), strict=True):
        own, ids = list(whole["token_ids"]), list(row["token_ids"])
        assert own[: len(ids)] == ids, "the same draws, and no token that was not sampled"
        assert not any(text in row["text"] for text in stops)
        if ids == own:
            assert row["text"] == whole["text"]
            continue
        ended += 1
        assert row["finish_reason"] == "stop"
        assert row["text"] == chat.text(ids)
        assert any(text in chat.text(own[: len(ids) + 2]) for text in stops), "no earlier than needed"
    assert 0 < ended < len(responses)
    assert counts["stopped_by_text"] == ended
    assert json.loads(responses["sampling"][0])["stop"] == list(stops)
    assert "stop" not in json.loads(without["sampling"][0])


def test_generation_with_vllm_ends_at_stop_strings(request_for: Any, stand_in_vllm: None, tmp_path: Path) -> None:
    def make(stop: tuple[str, ...]) -> GenerateRequest:
        return request_for(generation=GenerationConfig(samples_per_prompt=2, engine="vllm", stop=stop))

    _, without, _ = generated(make(()), tmp_path / "without")
    _, responses, counts = generated(make(("order",)), tmp_path / "out")
    assert counts["stopped_by_text"] > 0
    for whole, row in zip(without.to_dict("records"), responses.to_dict("records"), strict=True):
        assert whole["text"].partition("order")[0].rstrip() == row["text"]
        assert list(whole["token_ids"])[: len(row["token_ids"])] == list(row["token_ids"])


def test_generation_hands_on_the_columns_of_the_drawn_prompts(request_for: Any, pool: Artifact, tmp_path: Path) -> None:
    """Columns that go by position instead of by prompt would judge answers by another prompt's key."""
    table = read_table(pool)
    table["columns"] = [json.dumps({"answer": name}) for name in table["prompt_id"]]
    write_table(tmp_path / "pool.parquet", table)
    request = request_for(prompts=Artifact(path=tmp_path / "pool.parquet", digest="columns"))
    prompts, _, _ = generated(request, tmp_path / "out")
    assert [json.loads(text)["answer"] for text in prompts["columns"]] == prompts["prompt_id"].tolist()
    plain, _, _ = generated(request_for(), tmp_path / "plain")
    assert "columns" not in plain
