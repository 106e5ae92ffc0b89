import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from components.models.cpu.linear import pad_rows
from components.scoring.packed.layout import Packed

CPU = torch.device("cpu")
TOKENS = st.lists(st.integers(1, 3), min_size=1, max_size=5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@given(rows=st.lists(st.tuples(TOKENS, TOKENS), min_size=1, max_size=8))
def test_packed_holds_each_prompt_once_and_predicts_every_response_token_where_it_follows(
    dtype: torch.dtype, rows: list[tuple[list[int], list[int]]]
) -> None:
    prompts, responses = [prompt for prompt, _ in rows], [response for _, response in rows]
    packed = Packed(prompts, responses, CPU, dtype)
    ids, positions = packed.input_ids[0].tolist(), packed.position_ids[0].tolist()
    different = {tuple(prompt) for prompt in prompts}
    assert packed.num_tokens == sum(map(len, different)) + sum(map(len, responses))
    assert len(ids) == len(positions) == packed.num_tokens + pad_rows(packed.num_tokens, CPU, dtype)
    predicting = iter(packed.places.tolist())
    for segment, prompt, response in zip(packed.segments, prompts, responses, strict=True):
        assert ids[segment.prompt_start : segment.prompt_start + segment.prompt_length] == prompt
        assert ids[segment.start : segment.start + segment.length] == response
        assert positions[segment.start] == len(prompt)
        for number in range(len(response)):
            place = next(predicting)
            assert positions[place] == len(prompt) + number - 1
            assert ids[place] == (prompt[-1] if number == 0 else response[number - 1])
    assert packed.longest == max(len(prompt) + len(response) for prompt, response in rows)
    assert sum(segment.adjoins for segment in packed.segments) == len(different)


def test_rows_of_nearly_one_length_are_as_wide_in_bfloat16() -> None:
    """In bf16, oneDNN compiles and caches primitives for every width."""
    layouts = [Packed([[1] * 300], [[2] * length], CPU, torch.bfloat16) for length in range(213, 725)]
    assert len({layout.input_ids.shape[1] for layout in layouts}) == 16
    assert len({len(layout.read) for layout in layouts}) <= 32
