"""Round 0 is published only for a model that loads and samples."""

import datetime
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from components.artifacts import digest, read_json, read_table
from components.config import CampaignConfig, PreferencesConfig
from components.records import StageFailed
from components.runtime.launch import run_stage
from components.start.preflight import check_inputs, check_revisions
from flows.requests import start_request


@pytest.fixture
def copy(starter_directory: Path, tmp_path: Path) -> Path:
    shutil.copytree(starter_directory, tmp_path / "model")
    return tmp_path / "model"


def start(model: Path, directory: Path, *, policy: dict[str, Any] | None = None, **sections: Any) -> Any:
    own = {"model": str(model), "dtype": "float32", "max_response_tokens": 32} | (policy or {})
    config = CampaignConfig.model_validate({"campaign": "begun", "policy": own, **sections})
    request = start_request(config, check_inputs(config).prompts_digest)
    run_stage("start", request, directory)
    return read_json(directory / "start" / "start.json")


def changed(model: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    weights = load_file(model / "model.safetensors")
    change(weights)
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})


def test_start_model_that_answers_is_pinned(copy: Path, tmp_path: Path) -> None:
    pinned = start(copy, tmp_path / "round-000")["model"]
    assert (pinned["base"], pinned["base_round"], pinned["digest"]) == (str(copy), 0, pinned["base_digest"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights["lm_head.weight"].fill_(float("nan")), "logits are not finite"),
        (lambda weights: weights.update({"lm_head.weight": weights["lm_head.weight"][:, :8].clone()}), "."),
    ],
    ids=["not finite", "another shape"],
)
def test_start_model_that_cannot_answer_is_not_published(change: Any, message: str, copy: Path, tmp_path: Path) -> None:
    changed(copy, change)
    with pytest.raises(
        StageFailed,
        match=rf"start failed: ValueError: the start model .* cannot be loaded or sampled from: .*{message}",
    ) as failed:
        start(copy, tmp_path / "round-000")
    assert "\n" not in str(failed.value)
    assert not (tmp_path / "round-000" / "start").exists()


def with_template(model: Path, template: str) -> None:
    (model / "chat_template.jinja").write_text(template)


def refused(model: Path, directory: Path) -> str:
    with pytest.raises(StageFailed) as failed:
        start(model, directory)
    assert "\n" not in str(failed.value)
    assert not (directory / "start").exists()
    return str(failed.value)


def test_template_that_refuses_prompts_is_told_with_their_places_before_anything_is_sampled(
    copy: Path, tmp_path: Path
) -> None:
    own = (copy / "chat_template.jinja").read_text()
    gate = "{% if 'kettle' in messages[-1]['content'] %}{{ raise_exception('no kettles') }}{% endif %}"
    with_template(copy, gate + own)
    told = refused(copy, tmp_path / "round-000")
    assert re.search(r"refuses \d+ of \d+ training prompts \(no kettles\): prompt [0-9a-f]{16}, ", told)
    assert "change them, or the model's chat template" in told


def test_template_without_a_generation_prompt_is_refused(copy: Path, tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ m.role + ' ' + m.content + ' <|end|> ' }}{% endfor %}"
    with_template(copy, template)
    told = refused(copy, tmp_path / "round-000")
    assert "writes 'assistant ' in front of an answer, but not behind a prompt" in told
    assert "{% if add_generation_prompt %}{{ 'assistant ' }}{% endif %}" in told


def test_tokenizer_of_another_model_is_refused_with_the_token(copy: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(copy)
    tokenizer.add_tokens(["kettle!"])
    tokenizer.save_pretrained(copy)
    own = (copy / "chat_template.jinja").read_text()
    with_template(copy, own.replace("add_generation_prompt %}", "add_generation_prompt %}kettle!"))
    size = len(tokenizer)
    told = refused(copy, tmp_path / "round-000")
    assert re.search(rf"gives token {size - 1} \(' ?kettle!'\) for prompt [0-9a-f]{{16}} ", told)
    assert f"the model has only {size - 1} tokens: use the tokenizer that belongs to the model" in told


def test_prompts_that_are_all_too_long_are_refused_at_the_start(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match=r"all \d+ training prompts are longer than policy.max_prompt_tokens = 2 "):
        start(copy, tmp_path / "round-000", policy={"max_prompt_tokens": 2})


def test_start_says_which_tokens_end_an_answer(copy: Path, tmp_path: Path) -> None:
    """The tokenizer's end of sequence is another token than the one that the template writes behind an answer."""
    tokenizer = AutoTokenizer.from_pretrained(copy)
    end = tokenizer.eos_token
    tokenizer.eos_token = "<pad>"
    tokenizer.save_pretrained(copy)
    (copy / "generation_config.json").unlink(missing_ok=True)
    settings = json.loads((copy / "config.json").read_text()) | {"eos_token_id": None}
    (copy / "config.json").write_text(json.dumps(settings))
    pinned = start(copy, tmp_path / "round-000")
    assert set(pinned["stop_tokens"]) == {end, "<pad>"}
    assert pinned["template_date"] is None
    assert pinned["unrenderable"].startswith("the answer's tokens decode to another text"), "it knows no such word"


def test_date_that_a_template_writes_is_pinned(copy: Path, tmp_path: Path) -> None:
    own = (copy / "chat_template.jinja").read_text()
    with_template(copy, "{{ strftime_now('%d')[:0] }}" + own)
    assert start(copy, tmp_path / "today")["template_date"] == datetime.date.today().isoformat()
    assert start(copy, tmp_path / "other", policy={"template_date": "2024-07-26"})["template_date"] == "2024-07-26"


def test_revisions_are_refused_if_the_template_does_not_write_them_as_they_are() -> None:
    revised, judged = PreferencesConfig(pairs="revised"), PreferencesConfig()
    check_revisions(revised, None)
    check_revisions(judged, "it writes a thought")
    with pytest.raises(ValueError, match=r"takes answers from outside \(it writes a thought\): set policy.chat_temp"):
        check_revisions(revised, "it writes a thought")


def write_prompts(path: Path, prompts: list[Any]) -> str:
    path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    return str(path)


ANY_JUDGE = {"judge": {"kind": "llm", "endpoint": {"url": "http://127.0.0.1:9/v1", "model": "m"}}}


def test_start_orders_the_held_out_prompts_by_content_and_not_by_their_file(copy: Path, tmp_path: Path) -> None:
    """An evaluation takes the first prompts: in a file that is sorted by topic they would all be of one topic."""
    topics = [f"{topic} question {number}" for topic in ("coding", "poems") for number in range(40)]
    tables = []
    for name, order in (("one", topics), ("other", topics[::-1])):
        prompts = {
            "train": write_prompts(tmp_path / f"train-{name}.jsonl", ["train"]),
            "held_out": write_prompts(tmp_path / f"held-{name}.jsonl", order),
        }
        start(copy, tmp_path / name, prompts=prompts, **ANY_JUDGE)
        tables.append(read_table(tmp_path / name / "start" / "held_out_prompts.parquet"))
    pd.testing.assert_frame_equal(*tables)
    assert 5 <= tables[0]["messages"].head(20).str.contains("coding").sum() <= 15


def test_start_refuses_tools_that_the_chat_template_leaves_out(copy: Path, tmp_path: Path) -> None:
    call = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}
    calling = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "user", "content": "And in Rome?"},
    ]
    prompts = {
        "train": write_prompts(tmp_path / "train.jsonl", ["train", calling]),
        "held_out": write_prompts(tmp_path / "held.jsonl", ["held"]),
    }
    says = r"the chat template does not render .* the call of weather.*remove the row"
    with pytest.raises(StageFailed, match=says) as refused:
        start(copy, tmp_path / "round-000", prompts=prompts, **ANY_JUDGE)
    assert "train.jsonl line 2" in str(refused.value)


def test_system_prompt_is_published_with_every_prompt_and_leaves_the_held_out_order(copy: Path, tmp_path: Path) -> None:
    start(copy, tmp_path / "bare")
    start(copy, tmp_path / "led", policy={"system_prompt": " We sell lamps.\n"})
    for name in ("train_prompts", "held_out_prompts"):
        bare, led = (read_table(tmp_path / place / "start" / f"{name}.parquet") for place in ("bare", "led"))
        without = [json.loads(text) for text in led["messages"]]
        assert {json.dumps(messages.pop(0)) for messages in without} == {
            '{"role": "system", "content": "We sell lamps."}'
        }
        assert without == [json.loads(text) for text in bare["messages"]]
        assert not set(bare["prompt_id"]) & set(led["prompt_id"])


NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"


@pytest.mark.parametrize(
    ("gate", "cause"),
    [
        (NO_SYSTEM, r"refuses it \(System role not supported\)"),
        ("{% set messages = messages | rejectattr('role', 'equalto', 'system') | list %}", "leaves it out"),
    ],
)
def test_template_without_a_system_role_is_refused_with_the_remedy(
    gate: str, cause: str, copy: Path, tmp_path: Path
) -> None:
    own = (copy / "chat_template.jinja").read_text()
    with_template(copy, gate + own)
    with pytest.raises(
        StageFailed,
        match=rf"policy\.system_prompt is set, but the chat template of \S+ {cause}: write its text in front of",
    ):
        start(copy, tmp_path / "round-000", policy={"system_prompt": "Yes"})
    start(copy, tmp_path / "without")


def test_template_that_takes_the_system_prompt_into_the_users_turn_is_fine(copy: Path, tmp_path: Path) -> None:
    own = (copy / "chat_template.jinja").read_text()
    first = (
        "{% if messages[0].role == 'system' %}{{ messages[0].content }} {% set messages = messages[1:] %}{% endif %}"
    )
    with_template(copy, first + own)
    start(copy, tmp_path / "round-000", policy={"system_prompt": "Yes"})
    (prompts,) = (tmp_path / "round-000").rglob("train_prompts.parquet")
    first_prompt = json.loads(pd.read_parquet(prompts)["messages"][0])
    assert first_prompt[0] == {"role": "system", "content": "Yes"}


def test_template_that_leaves_out_the_prompts_own_system_messages_is_refused(copy: Path, tmp_path: Path) -> None:
    with_template(
        copy,
        "{% set messages = messages | rejectattr('role', 'equalto', 'system') | list %}"
        + (copy / "chat_template.jinja").read_text(),
    )
    ask = "My kettle arrived broken. The order is #53"
    rows = [
        {"prompt": f"{ask}{n}.", "system": "Be kind."} if n == 12 else {"prompt": f"{ask}{n}."} for n in range(10, 20)
    ]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prompts = {"train": str(tmp_path / "p.jsonl"), "held_out": "", "num_held_out": 2}
    with pytest.raises(StageFailed, match=r"leaves out the system messages that 1 of \d+ \S+ prompts have: .*line 3"):
        start(copy, tmp_path / "round-000", prompts=prompts)


def test_start_model_is_measured_on_held_out_prompts_as_an_evaluation_samples(copy: Path, tmp_path: Path) -> None:
    """A user whose limit cuts most answers learns it in round 0, not by a refused round after hours."""
    cut, whole = (
        start(
            copy,
            tmp_path / f"limit-{limit}",
            policy={"max_response_tokens": limit},
            prompts={"num_held_out": 32},
            evaluation={"start_prompts": 40},
        )["measured"]
        for limit in (2, 64)
    )
    assert (cut["num_prompts"], cut["max_response_tokens"], cut["temperature"]) == (32, 2, 1.0)
    assert cut["unfinished_share"]["value"] > 0.9 > 0.5 > whole["unfinished_share"]["value"]
    assert cut["mean_tokens"] <= 2 < whole["mean_tokens"]
    for measured in (cut, whole):
        for name in ("unfinished_share", "empty_share"):
            interval = measured[name]
            assert 0 <= interval["low"] <= interval["value"] <= interval["high"] <= 1
            assert interval["n"] == 32
        assert measured["tokens_per_second"] > 0
    assert whole["unfinished_share"]["high"] - whole["unfinished_share"]["low"] > 0.05, "32 prompts prove no share"


def test_start_model_is_measured_by_the_law_that_is_served(copy: Path, tmp_path: Path) -> None:
    served = {"start_prompts": 8, "temperature": 5.0, "top_k": 1}
    sharp, flat = (
        start(copy, tmp_path / name, policy={"max_response_tokens": 64}, evaluation=law)["measured"]
        for name, law in (("sharp", served), ("flat", served | {"top_k": 0}))
    )
    assert (sharp["top_p"], sharp["top_k"]) == (1.0, 1)
    assert "top_k" not in flat, "start.json of a law that truncates nothing is what it was"
    assert sharp["unfinished_share"]["value"] < flat["unfinished_share"]["value"]


def test_start_model_that_nobody_asks_to_measure_is_not(copy: Path, tmp_path: Path) -> None:
    assert start(copy, tmp_path / "round-000", evaluation={"start_prompts": 0})["measured"] is None


def test_start_that_was_published_without_the_measure_is_not_run_again(copy: Path, tmp_path: Path) -> None:
    """How the measure is made enters no key: a campaign of an earlier version would else pin another date."""
    start(copy, tmp_path / "round-000", evaluation={"start_prompts": 0})
    published = (tmp_path / "round-000" / "start" / "MANIFEST.json").read_bytes()
    again = start(copy, tmp_path / "round-000", evaluation={"temperature": 0.5}, seed=3)
    assert again["measured"] is None
    assert (tmp_path / "round-000" / "start" / "MANIFEST.json").read_bytes() == published


def test_limit_that_does_not_fit_the_models_context_is_refused_at_the_start(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(StageFailed, match=r"need \d+ positions, but the model has 256: lower max_response_tokens"):
        start(copy, tmp_path / "round-000", policy={"max_response_tokens": 512})


@pytest.fixture
def hub_name(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A model that lies in the cache of the hub as `snapshot_download` leaves it, without a network."""
    repository, commit = tmp_path / "hub" / "models--people--starter", "0" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    shutil.copytree(copy, repository / "snapshots" / commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return "people/starter"


def test_adapter_that_does_not_fit_a_model_of_the_hub_is_refused_in_round_0(hub_name: str, tmp_path: Path) -> None:
    """Only local directories were tried: the first round failed when it began to train, after hours of judging."""
    with pytest.raises(StageFailed, match=r"lora.target_modules = c_attn does not fit model .* its linear layers are"):
        start(Path(hub_name), tmp_path / "odd", lora={"rank": 4, "target_modules": "c_attn"})
    assert not (tmp_path / "odd" / "start").exists()
    pinned = start(Path(hub_name), tmp_path / "fits", lora={"rank": 4, "target_modules": "q_proj"})
    assert pinned["model"]["base"].endswith("0" * 40)


def test_quantized_weights_of_the_hub_are_refused_in_round_0_unless_an_adapter_is_trained(
    hub_name: str, tmp_path: Path
) -> None:
    (config,) = tmp_path.glob("hub/*/snapshots/*/config.json")
    settings = json.loads(config.read_text()) | {"quantization_config": {"quant_method": "gptq"}}
    config.write_text(json.dumps(settings))
    with pytest.raises(StageFailed, match=r"quantized weights, which cannot be trained: set `lora: \{rank: 16\}`"):
        start(Path(hub_name), tmp_path / "round-000")


def test_what_is_trained_enters_no_key_of_round_0(copy: Path) -> None:
    """A campaign of an earlier version would else pin everything again."""
    config = CampaignConfig.model_validate({"campaign": "begun", "policy": {"model": str(copy)}})
    adapted = CampaignConfig.model_validate({"campaign": "begun", "policy": {"model": str(copy)}, "lora": {"rank": 4}})
    assert digest(start_request(config, "0")) == digest(start_request(adapted, "0"))


def test_start_counts_training_prompts_that_are_nearly_held_out(copy: Path, tmp_path: Path) -> None:
    """Catches an evaluation that measures memory: a prompt of other words is another content, however few they are."""
    words = " ".join(f"word{number}" for number in range(30))
    prompts = {
        "train": write_prompts(tmp_path / "train.jsonl", [f"{words} then", "something else altogether, with care"]),
        "held_out": write_prompts(tmp_path / "held.jsonl", [f"{words} now"]),
    }
    assert start(copy, tmp_path / "one", prompts=prompts, **ANY_JUDGE)["near_held_out"] == 1
    checks = {"leakage": {"on_breach": "off"}}
    assert start(copy, tmp_path / "two", prompts=prompts, checks=checks, **ANY_JUDGE)["near_held_out"] is None
