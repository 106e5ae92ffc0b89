"""One rank of a training under ZeRO 3 that releases each weight after its use, as above 1e9 live weights.

python sharded_rank.py REQUEST OUT: also writes the forwards of its own that this rank has in each scoring without
gradients, a JSON list, to OUT/forwards-RANK.json. The test kills both ranks if they wait for each other.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from components.dpo.engine import deepspeed_module
from components.dpo.stage import run
from components.records import TrainRequest
from components.scoring import response_logps

RELEASE_AT_ONCE = {
    "stage3_max_live_parameters": 0,
    "stage3_max_reuse_distance": 0,
    "stage3_param_persistence_threshold": 0,
    "stage3_prefetch_bucket_size": 0,
}

request, out = TrainRequest.model_validate_json(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
forwards: list[int] = []
initialize, most_forwards = deepspeed_module().initialize, response_logps.most_forwards


def initialize_sharded(*, config: dict[str, Any], **others: Any) -> Any:
    config["zero_optimization"] |= RELEASE_AT_ONCE
    return initialize(config=config, **others)


def counted(model: Any, own: int) -> int:
    if hasattr(next(model.parameters()), "ds_id"):
        forwards.append(own)
    return most_forwards(model, own)


deepspeed_module().initialize = initialize_sharded
response_logps.most_forwards = counted
# A forward without gradients then takes no more tokens than one with gradients, so a rank may need several.
response_logps.SCORED_TOKENS = 1
run(request, out)
(out / f"forwards-{os.environ['RANK']}.json").write_text(json.dumps(forwards))
