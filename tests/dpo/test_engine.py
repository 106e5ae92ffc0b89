import pytest

from components.dpo.engine import learning_rate_share


def test_learning_rate_share_by_hand() -> None:
    shares = [learning_rate_share(step, warmup=2, num_steps=6) for step in range(7)]
    assert shares == pytest.approx([0.5, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0])


def test_learning_rate_share_without_warmup_starts_at_the_peak() -> None:
    assert learning_rate_share(0, warmup=0, num_steps=3) == 1.0


def test_learning_rate_share_all_warmup_never_divides_by_zero() -> None:
    assert [learning_rate_share(step, warmup=3, num_steps=3) for step in range(4)] == pytest.approx(
        [1 / 3, 2 / 3, 1.0, 0.0]
    )
