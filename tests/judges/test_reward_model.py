"""The reward model judge, on a tiny random Llama with a classification head."""

import json
import math
import random
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

from components.config import JudgeConfig
from components.judges import reward_model as reward_model_module
from components.judges.protocol import Group, JudgeContext, Verdict
from components.judges.registry import check_judge, judge_digest, load_judge
from components.models.cpu.linear import pad_rows

UNUSED = JudgeContext(Path("unused"))
WORDS = ["<unk>", "<user>", "<assistant>", "<end>", "<pad>", *(f"w{number}" for number in range(40))]
TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{{ '<' + m['role'] + '> ' + m['content'] + ' <end> ' }}{% endfor %}"
)
END, PAD = WORDS.index("<end>"), WORDS.index("<pad>")


def save_tokenizer(path: Path, template: str | None = TEMPLATE) -> None:
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<end>", additional_special_tokens=WORDS[1:3]
    )
    fast.chat_template = template
    fast.save_pretrained(path)


def save_model(path: Path, *, pad_id: int | None, **settings: int) -> Path:
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=settings.pop("positions", 64),
        num_labels=settings.pop("labels", 1),
        initializer_range=0.5,
        pad_token_id=pad_id,
        bos_token_id=None,
        eos_token_id=END,
    )
    LlamaForSequenceClassification(config).save_pretrained(path)
    save_tokenizer(path)
    return path


@pytest.fixture
def reward_model(tmp_path: Path) -> Path:
    return save_model(tmp_path / "rm", pad_id=None)


def groups(number: int = 6) -> list[Group]:
    rng = random.Random(1)

    def text(longest: int) -> str:
        return " ".join(rng.choice(WORDS[5:]) for _ in range(rng.randint(1, longest)))

    return [
        Group(f"p{n}", [{"role": "user", "content": text(6)}], tuple((s, text(12)) for s in range(3)))
        for n in range(number)
    ]


def config(path: Path, **knobs: int) -> JudgeConfig:
    return JudgeConfig(kind="reward_model", model=str(path), dtype="float32", **knobs)  # type: ignore[arg-type]


def by_response(verdicts: list[Verdict]) -> dict[tuple[str, int], float | None]:
    return {(verdict.prompt_id, verdict.sample_id): verdict.score for verdict in verdicts}


def plain_score(path: Path, group: Group, text: str) -> float:
    """Return the logit of one forward pass over one unpadded text, written out from the template."""
    model = LlamaForSequenceClassification.from_pretrained(path).eval()
    words = f"<user> {group.messages[0]['content']} <end> <assistant> {text} <end>".split()
    with torch.no_grad():
        return float(model(torch.tensor([[WORDS.index(word) for word in words]])).logits[0, 0])


@pytest.mark.parametrize("pad_id", [None, PAD, END, -1])
def test_reward_model_in_batches_scores_as_one_text_alone(pad_id: int | None, tmp_path: Path) -> None:
    path = save_model(tmp_path / "rm", pad_id=pad_id)
    asked = groups()
    verdicts = load_judge(config(path, batch_size=5), UNUSED).judge(asked)
    expected = {
        (group.prompt_id, number): plain_score(path, group, text) for group in asked for number, text in group.responses
    }
    assert by_response(verdicts) == pytest.approx(expected, abs=1e-5)
    assert len({round(score, 3) for score in expected.values()}) > len(expected) // 2


def test_reward_model_scores_do_not_depend_on_order_or_batch_size(reward_model: Path) -> None:
    asked = groups()
    one = by_response(load_judge(config(reward_model, batch_size=1), UNUSED).judge(asked))
    assert one == pytest.approx(
        by_response(load_judge(config(reward_model, batch_size=64), UNUSED).judge(asked)), abs=1e-5
    )
    judge = load_judge(config(reward_model, batch_size=4), UNUSED)
    assert by_response(judge.judge(asked)) == by_response(judge.judge(asked[::-1]))


def test_reward_model_reads_each_prompt_once(reward_model: Path) -> None:
    """The shared prompt is read once, and each response from its first token of its own."""
    group = Group(
        "p", [{"role": "user", "content": "w1 w2 w3 w4 w5 w6"}], tuple((s, f"w{s} w{s}") for s in range(10, 14))
    )
    judge = load_judge(config(reward_model), UNUSED)
    judge.judge([group])  # which also tries whether the model can be packed
    read: list[int] = []
    model = judge._model  # type: ignore[attr-defined]
    model.get_input_embeddings().register_forward_pre_hook(lambda _, words: read.append(words[0].numel()))
    verdicts = judge.judge([group])
    prompt, response = 1 + 6 + 2, 2 + 1
    filled = pad_rows(prompt + 4 * response, model.device, model.dtype)
    assert read == [prompt + 4 * response + filled]
    assert [verdict.score for verdict in verdicts] == pytest.approx(
        [plain_score(reward_model, group, text) for _, text in group.responses], abs=1e-5
    )


def test_reward_model_with_responses_that_begin_each_other(reward_model: Path) -> None:
    group = Group(
        "p", [{"role": "user", "content": "w1"}], ((0, "w2"), (1, "w2 <end>"), (2, "w2 <end> <end> w3"), (3, ""))
    )
    verdicts = load_judge(config(reward_model), UNUSED).judge([group])
    assert [verdict.score for verdict in verdicts] == pytest.approx(
        [plain_score(reward_model, group, text) for _, text in group.responses], abs=1e-5
    )


def test_reward_model_that_cannot_be_packed_scores_the_same(
    reward_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = groups()
    packed = by_response(load_judge(config(reward_model), UNUSED).judge(asked))
    monkeypatch.setattr(reward_model_module, "longest_rewarded", lambda model: 0)
    monkeypatch.setattr(reward_model_module, "packed_rewards", lambda *words: pytest.fail("it was packed"))
    judge = load_judge(config(reward_model, batch_size=5), UNUSED)
    assert by_response(judge.judge(asked)) == pytest.approx(packed, abs=1e-5)
    assert by_response(judge.judge(asked)) == by_response(judge.judge(asked[::-1]))


def test_reward_model_pads_a_batch_that_uses_every_token(reward_model: Path) -> None:
    everything = Group("p", [{"role": "user", "content": "w1"}], ((0, " ".join(WORDS)), (1, "w2")))
    verdicts = load_judge(config(reward_model), UNUSED).judge([everything])
    assert [verdict.score for verdict in verdicts] == pytest.approx(
        [plain_score(reward_model, everything, t) for _, t in everything.responses], rel=1e-5
    )


@pytest.mark.parametrize(("limit", "positions"), [(10, 64), (2048, 10)])
def test_reward_model_never_scores_the_start_of_a_text_that_is_too_long(
    limit: int, positions: int, tmp_path: Path
) -> None:
    path = save_model(tmp_path / "rm", pad_id=PAD, positions=positions)
    group = Group("p", [{"role": "user", "content": "w1"}], ((0, "w2 w2 w2 w2 w2"), (1, "w2 w2 w2 w2 w2 w2")))
    fits, too_long = load_judge(config(path, max_tokens=limit), UNUSED).judge([group])
    assert fits.status == "ok"
    assert (too_long.status, too_long.score) == ("invalid", None)
    assert too_long.detail == "prompt and response have 11 tokens, and the reward model reads 10"


def test_reward_model_whose_template_refuses_a_conversation_gives_an_invalid_verdict(reward_model: Path) -> None:
    refused = Group("p", [{"role": "system", "content": "w1"}, {"role": "user", "content": "w2"}], ((0, "w3"),))
    bad, good = load_judge(config(reward_model), UNUSED).judge([refused, groups(1)[0]])[:2]
    assert (bad.status, good.status) == ("invalid", "ok")
    assert bad.detail == "the reward model's chat template refuses the conversation: no system role"


def test_reward_model_that_answers_nan_gives_invalid_verdicts(reward_model: Path) -> None:
    weights = load_file(reward_model / "model.safetensors")
    weights["score.weight"][:] = math.nan
    save_file(weights, reward_model / "model.safetensors", metadata={"format": "pt"})
    verdicts = load_judge(config(reward_model), UNUSED).judge(groups(2))
    assert {verdict.status for verdict in verdicts} == {"invalid"}


def test_reward_model_digest_follows_weights_and_template_wherever_they_lie(reward_model: Path, tmp_path: Path) -> None:
    before = judge_digest(config(reward_model))
    copy = save_model(tmp_path / "copy", pad_id=None)
    assert judge_digest(config(copy)) == before
    save_tokenizer(copy, TEMPLATE + " ")
    assert judge_digest(config(copy)) != before
    save_tokenizer(copy)
    weights = load_file(copy / "model.safetensors")
    weights["score.weight"][0, 0] += 1
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    assert judge_digest(config(copy)) != before


def refuse_pickle(path: Path) -> None:
    (path / "model.safetensors").rename(path / "pytorch_model.bin")


def refuse_no_tokenizer(path: Path) -> None:
    (path / "tokenizer.json").unlink()


def refuse_no_template(path: Path) -> None:
    (path / "chat_template.jinja").unlink()


def refuse_two_outputs(path: Path) -> None:
    save_model(path, pad_id=None, labels=2)


def refuse_language_model(path: Path) -> None:
    LlamaForCausalLM(
        LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    ).save_pretrained(path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (refuse_pickle, "only pickled weights"),
        (refuse_no_tokenizer, "has no tokenizer"),
        (refuse_no_template, "has no chat template"),
        (refuse_two_outputs, "has 2 outputs: use a reward model with one output"),
        (refuse_language_model, r"is not a reward model \(LlamaForCausalLM\)"),
    ],
)
def test_reward_model_that_cannot_judge_is_refused_before_the_campaign(
    spoil: object, message: str, reward_model: Path
) -> None:
    check_judge(config(reward_model))
    spoil(reward_model)  # type: ignore[operator]
    for use in (check_judge, partial(load_judge, context=UNUSED)):
        with pytest.raises(ValueError, match=message):
            use(config(reward_model))


def test_reward_model_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"rm does not exist: name a local directory"):
        check_judge(config(tmp_path / "rm"))


def test_reward_model_without_a_trained_head_is_refused(reward_model: Path) -> None:
    weights = load_file(reward_model / "model.safetensors")
    del weights["score.weight"]
    save_file(weights, reward_model / "model.safetensors", metadata={"format": "pt"})
    assert json.loads((reward_model / "config.json").read_text())["architectures"] == ["LlamaForSequenceClassification"]
    with pytest.raises(ValueError, match=r"lacks weights \(score.weight\), which would be random"):
        load_judge(config(reward_model), UNUSED)
