"""One rank of a regression suite: writes what it was told to solve, and what it found, beside the other ranks."""

import json
import os
import sys
from pathlib import Path

from components.config import PolicyConfig, RegressionConfig
from components.records import ModelRef
from components.regression.run import regress

place = Path(sys.argv[1])
told = json.loads((place / "told.json").read_text())
found = regress(
    {name: ModelRef.model_validate(ref) for name, ref in told["models"].items()},
    config=RegressionConfig.model_validate(told["config"]),
    limits=PolicyConfig.model_validate(told["limits"]),
    engine="transformers",
    batch_size=0,
    seed=3,
    cache=place / "cache",
)
(place / f"found-{os.environ.get('RANK', 'alone')}.json").write_text(json.dumps(found))
