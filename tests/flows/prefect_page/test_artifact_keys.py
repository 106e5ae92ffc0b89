"""The keys of artifacts on the Prefect page: one page for each campaign, whatever letters its name has."""

import re

from tasks.record_round import artifact_key

NAMES = ["my-model", "my_model", "My.Model", "my.model", "MY-MODEL", "my-model-", "my--model"]


def test_artifact_key_of_a_plain_name_is_the_name() -> None:
    assert artifact_key("my-model", "round-001") == "my-model-round-001"


def test_artifact_key_tells_names_apart_that_prefect_would_write_alike() -> None:
    """The rounds of My.Model and of my_model took turns on one page."""
    keys = [artifact_key(name, "rounds") for name in NAMES]
    assert len(set(keys)) == len(NAMES)
    assert all(re.fullmatch("[a-z0-9]+(-[a-z0-9]+)*", key) for key in keys)
