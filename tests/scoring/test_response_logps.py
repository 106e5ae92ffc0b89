import random
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM

from components.scoring import response_logps as scoring
from components.scoring.batch import Batch
from components.scoring.response_logps import response_logps, together, token_logps


@pytest.fixture(scope="module")
def model(starter_directory: Path) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(starter_directory, dtype=torch.float32).eval()


PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14], [5, 6, 7]]
RESPONSES = [[20, 21], [22, 23, 24, 25, 26], [27], [21, 20, 3]]


@torch.no_grad()
def by_plain_loop(model: torch.nn.Module, prompt: list[int], response: list[int]) -> float:
    logits = model(input_ids=torch.tensor([prompt + response])).logits[0].double()
    total = 0.0
    for place, token in enumerate(response):
        row = logits[len(prompt) + place - 1]
        total += float(row[token] - torch.logsumexp(row, dim=0))
    return total


def test_response_logps_padded_batch_equals_plain_float64_loop(model: torch.nn.Module) -> None:
    scored = response_logps(model, 0, PROMPTS, RESPONSES, max_rows=3)
    expected = [by_plain_loop(model, prompt, response) for prompt, response in zip(PROMPTS, RESPONSES, strict=True)]
    torch.testing.assert_close(scored, torch.tensor(expected, dtype=torch.float32), atol=1e-4, rtol=0)


@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_response_logps_any_batch_size_is_the_same(model: torch.nn.Module, batch_size: int) -> None:
    whole = response_logps(model, 0, PROMPTS, RESPONSES, max_rows=4)
    torch.testing.assert_close(
        response_logps(model, 0, PROMPTS, RESPONSES, max_rows=batch_size), whole, atol=1e-4, rtol=0
    )


@pytest.mark.parametrize(
    ("packed", "expected"),
    # Tokens by row: 3 + 2, 1 + 5, 6 + 1, 3 + 3. In order of their prompts: row 1, then rows 0 and 3 with one prompt,
    # then row 2.
    [(False, [[1], [0], [3], [2]]), (True, [[1], [0, 3], [2]])],
)
def test_together_counts_an_equal_prompt_once_where_rows_are_packed(packed: bool, expected: list[list[int]]) -> None:
    assert list(together(PROMPTS, RESPONSES, max_tokens=8, max_rows=4, packed=packed)) == expected


@pytest.mark.parametrize("packed", [False, True])
def test_together_keeps_to_its_limits_and_leaves_no_row_out(packed: bool) -> None:
    chance = random.Random(3)
    prompts = [[chance.randrange(3)] * chance.randrange(1, 5) for _ in range(60)]
    responses = [[7] * chance.randrange(1, 30) for _ in prompts]
    forwards = list(together(prompts, responses, max_tokens=40, max_rows=6, packed=packed))
    assert sorted(row for rows in forwards for row in rows) == list(range(60))
    assert len(forwards) < 60
    for rows in forwards:
        assert len(rows) <= 6
        once = sum(len(prompt) for prompt in {tuple(prompts[row]) for row in rows}) + sum(
            len(responses[row]) for row in rows
        )
        filled = len(rows) * (max(len(prompts[row]) for row in rows) + max(len(responses[row]) for row in rows))
        assert (once if packed else filled) <= 40


@pytest.mark.parametrize(("longest", "expected"), [(2**31, [4]), (0, [1, 1, 1, 1])], ids=["packed", "padded"])
def test_the_limit_on_tokens_is_for_padded_forwards(
    longest: int, expected: list[int], model: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    forwards: list[int] = []

    def logps(_: torch.nn.Module, batch: Batch, *, temperature: float) -> torch.Tensor:
        forwards.append(len(batch.responses))
        return torch.zeros(batch.target_mask.shape)

    monkeypatch.setattr(scoring, "longest_packed", lambda *_: longest)
    monkeypatch.setattr(scoring, "token_logps", logps)
    response_logps(model, 0, PROMPTS, RESPONSES, max_tokens=8)
    assert forwards == expected


VOCABULARY, END, LONGEST = 5, 1, 3
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "initializer_range": 1.0,
    "tie_word_embeddings": False,
}


def tiny(family: str, seed: int, *, sharpness: float) -> torch.nn.Module:
    """Return a model of five tokens, scored in packed rows (llama) or padded (gemma2, whose logits are capped)."""
    torch.manual_seed(seed)
    model: torch.nn.Module = (
        LlamaForCausalLM(LlamaConfig(**SMALL))
        if family == "llama"
        else Gemma2ForCausalLM(Gemma2Config(**SMALL, head_dim=8, final_logit_softcapping=5.0))
    ).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(sharpness)
    return model


def every_response() -> list[list[int]]:
    """Return all responses that end with the end token, or at the limit without one."""
    ended: list[list[int]] = []
    begun: list[list[int]] = [[]]
    for _ in range(LONGEST):
        ended += [[*response, END] for response in begun]
        begun = [[*response, token] for response in begun for token in range(VOCABULARY) if token != END]
    return ended + begun


@torch.no_grad()
def law(model: torch.nn.Module, prompt: list[int], responses: list[list[int]], temperature: float) -> torch.Tensor:
    """Return log p(y) of each response in float64, one row at a time."""
    logps = []
    for response in responses:
        logits = model(input_ids=torch.tensor([prompt + response])).logits[0].double()
        rows = torch.log_softmax(logits[len(prompt) - 1 : -1] / temperature, dim=1)
        logps.append(rows.gather(1, torch.tensor(response).unsqueeze(1)).sum())
    return torch.stack(logps)


@pytest.mark.parametrize("temperature", [0.3, 0.7, 1.0])
@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_response_logps_give_the_divergence_of_what_is_sampled(family: str, temperature: float) -> None:
    """The mean of log p - log q over samples estimates KL only if both are of the law that was sampled.

    All responses are listed, so the mean is exact. The policy is flatter than the start: at temperature 1 of samples at
    0.3 the mean is below 0.
    """
    policy, start = tiny(family, 1, sharpness=0.5), tiny(family, 1, sharpness=1.0)
    prompt, responses = [2, 3, 4], every_response()
    exact, other = (law(model, prompt, responses, temperature) for model in (policy, start))
    assert float(exact.exp().sum()) == pytest.approx(1)
    divergence = float((exact.exp() * (exact - other)).sum())
    rows = [prompt] * len(responses), responses
    ours, theirs, plain, plain_start = (
        response_logps(model, 0, *rows, temperature=at).double()
        for at in (temperature, 1.0)
        for model in (policy, start)
    )
    torch.testing.assert_close(ours, exact, atol=1e-4, rtol=1e-5)
    assert float((exact.exp() * (ours - theirs)).sum()) == pytest.approx(divergence, rel=1e-4)
    if temperature == 0.3:
        assert float((exact.exp() * (plain - plain_start)).sum()) < -0.3 < 0.09 < divergence


def test_token_logps_gradient_equals_plain_forward() -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
    )
    model = LlamaForCausalLM(config).double()
    # The head's rows are cast to float32, so gradients agree to that precision and not to float64's.
    token_logps(model, Batch(PROMPTS, RESPONSES, 0, torch.device("cpu"))).sum().backward()
    batched = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    for prompt, response in zip(PROMPTS, RESPONSES, strict=True):
        logps = torch.log_softmax(model(input_ids=torch.tensor([prompt + response])).logits[0], dim=-1)
        sum(logps[len(prompt) + place - 1, token] for place, token in enumerate(response)).backward()
    for name, parameter in model.named_parameters():
        error = (batched[name] - parameter.grad).norm() / parameter.grad.norm().clamp(min=1e-12)
        assert error < 1e-4, name


def test_token_logps_places_without_a_token_are_zero(model: torch.nn.Module) -> None:
    logps = token_logps(model, Batch(PROMPTS, RESPONSES, 0, torch.device("cpu")))
    assert logps.shape == (4, 5)
    assert torch.equal(
        logps != 0, torch.tensor([[len(response) > place for place in range(5)] for response in RESPONSES])
    )
