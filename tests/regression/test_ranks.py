"""Two ranks share the answers and the likelihoods, and each has what one process finds."""

import json
import os
import subprocess
import sys
from pathlib import Path

from components.config import PolicyConfig, RegressionConfig
from components.records import ModelRef
from tests.regression.conftest import CHOSEN, GENERATED, Suite

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
LIMIT_SECONDS = 240
OF_A_RANK = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}


def test_two_ranks_find_what_one_process_finds(
    champion: ModelRef, forgetful: ModelRef, harness_suite: Suite, copying_task: Path, tmp_path: Path
) -> None:
    of_harness = harness_suite(shop_copying=GENERATED, shop_choice=CHOSEN)
    config = of_harness.model_copy(update={"tasks": (str(copying_task), *of_harness.tasks)})
    limits = PolicyConfig(dtype="float32", max_prompt_tokens=64)
    models = {"challenger": forgetful, "champion": champion}
    # A test that ran before in this process may have left the environment of a rank.
    environment = {name: value for name, value in os.environ.items() if name not in OF_A_RANK}
    for name, command in (("alone", []), ("two", TORCHRUN)):
        place = tmp_path / name
        place.mkdir()
        told = {
            "models": {model: ref.model_dump(mode="json") for model, ref in models.items()},
            "config": RegressionConfig.model_dump(config, mode="json"),
            "limits": limits.model_dump(mode="json"),
        }
        (place / "told.json").write_text(json.dumps(told))
        script = str(Path(__file__).parent / "rank.py")
        ran = subprocess.run(
            [sys.executable, *command, script, str(place)],
            capture_output=True,
            text=True,
            timeout=LIMIT_SECONDS,
            env=environment,
        )
        assert ran.returncode == 0, ran.stderr[-3000:]
    found = [json.loads((tmp_path / name).read_text()) for name in ("alone/found-alone.json", "two/found-0.json")]
    assert found[0] == found[1] == json.loads((tmp_path / "two/found-1.json").read_text())
    assert set(found[0]["tasks"]) == {"copying", "lm-eval:shop_copying", "lm-eval:shop_choice"}
    assert len(list((tmp_path / "two" / "cache").iterdir())) == 6
