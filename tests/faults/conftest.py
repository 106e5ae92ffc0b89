"""The campaign that nothing disturbed, with which all others are compared: made once, for all workers of the tests."""

import fcntl
import os
import shutil
from pathlib import Path

import pytest

from tests.faults.campaigns import Campaign


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """A start model that all workers of the tests share, since a campaign is pinned to the path of its own."""
    own = tmp_path_factory.getbasetemp()
    shared = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "faults"
    shared.mkdir(exist_ok=True)
    directory = shared / "model"
    with (shared / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not directory.exists():
            copy = shared / "copy"
            shutil.copytree(request.getfixturevalue("starter_directory"), copy)
            copy.rename(directory)
    return directory


@pytest.fixture(scope="session")
def undisturbed(model: Path) -> Campaign:
    """A campaign of one round that nothing disturbed."""
    campaign = Campaign(model.parent / "undisturbed", model)
    with (model.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = campaign.place / "done"
        if not done.exists():
            campaign.finish()
            done.touch()
    return campaign
