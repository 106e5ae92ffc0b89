"""Who may read what a round leaves: one mode, the umask's, for weights, texts, tables, logs and MLflow's copies."""

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from components.config import CampaignConfig

pytestmark = pytest.mark.usefixtures("prefect_session")


@pytest.fixture
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.mark.parametrize("umask", [0o027, 0o002], indirect=True, ids=oct)
def test_round_leaves_files_and_directories_as_the_umask_says(
    umask: int, runs: Path, make_config: Callable[..., CampaignConfig]
) -> None:
    """safetensors leaves weights that only their owner can load; everything else used to be open to all users."""
    from flows.iterative_dpo import iterative_dpo

    runs.mkdir()
    prompts = {"per_round": 8, "num_held_out": 16}
    lora = {"rank": 2} if umask == 0o002 else {}
    iterative_dpo(make_config(prompts=prompts, lora=lora))
    paths = [path for path in runs.rglob("*") if ".services" not in path.parts]
    expected = {True: 0o777 & ~umask, False: 0o666 & ~umask}
    odd = {
        str(path.relative_to(runs)): oct(stat.S_IMODE(path.stat().st_mode))
        for path in paths
        if stat.S_IMODE(path.stat().st_mode) != expected[path.is_dir()]
    }
    assert odd == {}
    names = {path.name for path in paths}
    assert {"responses.parquet", "verdicts.parquet", "report.html", "campaign.log", "mlflow.db", "mlartifacts"} <= names
    weights = [path for path in paths if path.suffix == ".safetensors"]
    assert any("mlartifacts" in path.parts for path in weights)
    assert any("small" in path.parts and "dpo_train" in path.parts for path in weights)
