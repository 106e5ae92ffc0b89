"""Tokens on which a model is tried before it takes a faster path. Knows a model's configuration and no tokenizer.

Special tokens are unsuitable: many tokenizers keep them at ids 0 to 10, few texts have several in a row, and in low
precision a model's log-probabilities on such a row can be nats away from their exact values.
"""

import random
from collections.abc import Iterator, Sequence
from typing import Any

FEWEST = 8
"""Ordinary tokens that the middle of a vocabulary must have; if it has fewer, all ordinary tokens are used."""


def trial_tokens(model: Any, lengths: Sequence[int]) -> list[list[int]]:
    """Draw sequences of ordinary tokens, the same ones on every call.

    Args:
        model: A transformers model without a wrapper.
        lengths: Tokens of each sequence.

    Returns:
        Token ids, one list per length.
    """
    ids, draw = ordinary_ids(model), random.Random(0)
    return [draw.choices(ids, k=length) for length in lengths]


def ordinary_ids(model: Any) -> list[int]:
    """Return ids from the middle half of the vocabulary, without those that the model's configurations name.

    Special tokens stand at either end of a vocabulary, and so do rows that only pad the embedding. If fewer than
    `FEWEST` are left, return all ids that are not named; if none is left, return all ids.
    """
    settings = model.config.get_text_config()
    size, named = (
        settings.vocab_size,
        set(_named_ids((model.config, settings, getattr(model, "generation_config", None)))),
    )
    ordinary = [token for token in range(size) if token not in named]
    middle = [token for token in ordinary if size // 4 <= token < size - size // 4]
    return middle if len(middle) >= FEWEST else ordinary or list(range(size))


def _named_ids(configs: Sequence[Any]) -> Iterator[int]:
    """Yield ids in `bos_token_id`, `image_token_id` and the like, each of which may be one id, several or None."""
    for config in configs:
        for name, value in vars(config).items() if config is not None else ():
            if name.endswith(("token_id", "token_ids")) and value is not None:
                yield from value if isinstance(value, list | tuple) else [value]
