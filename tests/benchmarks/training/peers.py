"""TRL's trainer, stopped and resumed at the end of every step.

It takes the pairs in their order, so that a step has the same pairs as any other system's; grouped by length, they are
sorted within it.
"""

import queue
import tempfile
import threading
import time
import warnings
from typing import Any

import torch
from shapes import CPU, Shape, Triple

DEFAULT_MICRO_BATCH = 8
"""transformers' own `per_device_train_batch_size`."""


class Peer:
    """TRL's DPO trainer over the pairs.

    `step` lets it make one more optimizer step, its data and bookkeeping included.
    """

    def __init__(
        self,
        shape: Shape,
        pairs: list[Triple],
        *,
        bf16: bool,
        pairs_per_step: int,
        longest: int,
        tuned: dict[str, Any] | None,
        weights: torch.dtype = torch.float32,
        lora_rank: int = 0,
        device: torch.device = CPU,
    ) -> None:
        warnings.filterwarnings("ignore")
        from datasets import Dataset, disable_progress_bars
        from transformers import TrainerCallback
        from transformers.utils import logging
        from trl import DPOConfig, DPOTrainer

        disable_progress_bars()
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        self.go: queue.Queue[bool] = queue.Queue()
        self.done: queue.Queue[Exception | None] = queue.Queue()
        micro = min(DEFAULT_MICRO_BATCH, pairs_per_step) if tuned is None else tuned["micro_batch"]
        settings: dict[str, Any] = {
            "output_dir": tempfile.mkdtemp(),
            "per_device_train_batch_size": micro,
            "gradient_accumulation_steps": pairs_per_step // micro,
            "num_train_epochs": 1,
            "max_steps": -1,
            "learning_rate": 1e-6,
            "max_length": longest,
            "beta": 0.1,
            "bf16": bf16,
            "use_cpu": device.type == "cpu",
            "save_strategy": "no",
            "report_to": [],
            "disable_tqdm": True,
            "logging_steps": 10,
            "seed": 1,
            "train_sampling_strategy": "sequential",
        }
        if tuned is not None:
            settings |= {"gradient_checkpointing": False, "precompute_ref_log_probs": tuned["precompute"]}
            pairs = _by_length(pairs, pairs_per_step) if tuned["by_length"] else pairs
        data = Dataset.from_list(shape.as_dataset(pairs))
        model = shape.build(weights, device)
        # Under an adapter the model itself is the reference.
        reference = None if lora_rank or settings.get("precompute_ref_log_probs") else shape.build(weights, device)
        self.prepared = 0.0
        """Return the seconds of the reference's pass, if it is made beforehand."""
        peer = self

        class Timed(DPOTrainer):  # type: ignore[misc, unused-ignore]
            def _prepare_dataset(self, dataset: Any, *given: Any) -> Any:
                if "prompt_ids" in dataset.column_names:
                    return dataset
                return super()._prepare_dataset(dataset, *given)

            def _precompute_ref_logps(self, *given: Any) -> Any:
                began = time.perf_counter()
                found = super()._precompute_ref_logps(*given)
                peer.prepared = time.perf_counter() - began
                return found

        self.trainer: Any = Timed(
            model=model,
            ref_model=reference,
            args=DPOConfig(**settings),
            train_dataset=data,
            processing_class=shape.tokenizer(),
            peft_config=_adapter(lora_rank) if lora_rank else None,
        )
        go, done = self.go, self.done

        class Stepwise(TrainerCallback):  # type: ignore[misc, unused-ignore]
            def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
                done.put(None)
                if not go.get():
                    control.should_training_stop = True

        self.trainer.add_callback(Stepwise())
        self.thread = threading.Thread(target=self._train, daemon=True)
        self.begun = False

    def ids(self) -> list[Triple]:
        """Return the tokens that the trainer made of the pairs."""
        columns = self.trainer.train_dataset.column_names
        chosen, rejected = (
            ("chosen_ids", "rejected_ids") if "chosen_ids" in columns else ("chosen_input_ids", "rejected_input_ids")
        )
        prompt = "prompt_ids" if "prompt_ids" in columns else "prompt_input_ids"
        return [Triple(list(row[prompt]), list(row[chosen]), list(row[rejected])) for row in self.trainer.train_dataset]

    def _train(self) -> None:
        try:
            self.trainer.train()
        except Exception as error:
            self.done.put(error)
        else:
            self.done.put(RuntimeError("the trainer has no steps left"))

    def step(self) -> None:
        """Run one more step."""
        if self.begun:
            self.go.put(True)
        else:
            self.begun = True
            self.thread.start()
        failed = self.done.get()
        if failed is not None:
            raise failed

    def stop(self) -> None:
        """End the training."""
        self.go.put(False)
        self.thread.join()


def _by_length(pairs: list[Triple], pairs_per_step: int) -> list[Triple]:
    """Order the longest pairs of each step first, so that a micro-batch has little padding."""
    steps = [pairs[begin : begin + pairs_per_step] for begin in range(0, len(pairs), pairs_per_step)]
    return [
        pair
        for step in steps
        for pair in sorted(step, key=lambda one: -len(one.prompt) - max(len(one.chosen), len(one.rejected)))
    ]


def _adapter(rank: int) -> Any:
    from peft import LoraConfig

    return LoraConfig(r=rank, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
