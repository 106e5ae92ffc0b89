import pytest

from components.web import rate_limit
from components.web.rate_limit import TokenBuckets


def test_bucket_gives_its_burst_and_then_its_rate() -> None:
    now = [0.0]
    buckets = TokenBuckets(per_second=2, burst=3, clock=lambda: now[0])
    assert [buckets.take("ann") for _ in range(4)] == [True, True, True, False]
    assert buckets.take("bob")
    now[0] = 0.5
    assert [buckets.take("ann") for _ in range(2)] == [True, False]
    now[0] = 100
    assert [buckets.take("ann") for _ in range(4)] == [True, True, True, False]


def test_buckets_forget_who_asked_longest_ago(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limit, "MOST_NAMES", 2)
    buckets = TokenBuckets(per_second=0, burst=1, clock=lambda: 0.0)
    assert all(buckets.take(name) for name in "abc")
    assert not buckets.take("c")
    assert buckets.take("a")
