"""Models are found, refused and identified by content."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from components.models.directory import check_model_directory, locate_model
from components.models.loading import load_policy, resolve_dtype, start_ref, tensors_digest, trained_ref


def written(path: Path, **tensors: torch.Tensor) -> Path:
    save_file(tensors, path)
    return path


def test_tensors_digest_depends_on_names_shapes_types_and_values_only(tmp_path: Path) -> None:
    a, b = torch.arange(6.0), torch.ones(2, dtype=torch.bfloat16)
    whole = tensors_digest([written(tmp_path / "one", a=a, b=b)])
    assert tensors_digest([written(tmp_path / "s1", b=b), written(tmp_path / "s2", a=a)]) == whole
    others = [{"a": a, "c": b}, {"a": a.view(2, 3), "b": b}, {"a": a, "b": b.float()}, {"a": a + 1e-6, "b": b}]
    digests = {tensors_digest([written(tmp_path / f"other{number}", **other)]) for number, other in enumerate(others)}
    assert len(digests) == 4
    assert whole not in digests


def test_tensors_digest_empty_and_scalar_tensors_count(tmp_path: Path) -> None:
    one = tensors_digest([written(tmp_path / "one", a=torch.tensor(1.0), b=torch.empty(0))])
    assert one != tensors_digest([written(tmp_path / "two", a=torch.tensor(1.0))])


def test_start_ref_copied_model_has_the_same_digest(starter_directory: Path, tmp_path: Path) -> None:
    shutil.copytree(starter_directory, tmp_path / "copy")
    assert start_ref(tmp_path / "copy", revision="main").digest == start_ref(starter_directory, revision="main").digest


def test_trained_ref_adapter_digest_covers_base_and_adapter(tmp_path: Path, starter_directory: Path) -> None:
    start = start_ref(starter_directory, revision="main")
    digests = set()
    for number in range(2):
        (tmp_path / f"{number}" / "adapter").mkdir(parents=True)
        written(tmp_path / f"{number}" / "adapter" / "adapter_model.safetensors", a=torch.full((2,), float(number)))
        trained = trained_ref(tmp_path / f"{number}", start, 1)
        assert trained.base_digest == start.digest != trained.digest
        digests.add(trained.digest)
    moved = start.model_copy(update={"base_digest": "other"})
    assert len(digests | {trained_ref(tmp_path / "0", moved, 1).digest}) == 3


def test_load_policy_is_in_evaluation_mode_without_dropout(starter_directory: Path) -> None:
    model = load_policy(start_ref(starter_directory, revision="main"), dtype=torch.bfloat16, device=torch.device("cpu"))
    assert not model.training
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert all(module.p == 0 for module in model.modules() if isinstance(module, torch.nn.Dropout))


@pytest.mark.parametrize(("capability", "expected"), [({"avx512_bf16": True}, torch.bfloat16), ({}, torch.float32)])
def test_resolve_dtype_auto_follows_the_processor(
    capability: dict[str, bool], expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capability)
    assert resolve_dtype("auto") is expected
    assert resolve_dtype("float32") is torch.float32


def test_locate_model_name_that_is_neither_here_nor_on_the_hub_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"model some/model is neither a local directory nor available on the hub"):
        locate_model("some/model", "main")
    with pytest.raises(ValueError, match=r"model directory /.*/nowhere does not exist"):
        locate_model("./nowhere", "main")
    assert locate_model(str(tmp_path), "main") == tmp_path.resolve()


def test_check_model_directory_sharded_safetensors_are_fine_and_no_config_is_not(
    starter_directory: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "model"
    shutil.copytree(starter_directory, copy)
    (copy / "model.safetensors").rename(copy / "model-00001-of-00001.safetensors")
    check_model_directory(copy)
    (copy / "config.json").unlink()
    with pytest.raises(ValueError, match=r"has no config\.json"):
        check_model_directory(copy)


def test_load_policy_has_no_dropout_in_training_either(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {
        "vocab_size": 16,
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    LlamaForCausalLM(LlamaConfig(**sizes, attention_dropout=0.5)).save_pretrained(tmp_path)
    model = load_policy(start_ref(tmp_path, revision="main"), dtype=torch.float32, device=torch.device("cpu")).train()
    first, second = (model(input_ids=torch.arange(1, 9).view(1, 8)).logits for _ in range(2))
    torch.testing.assert_close(first, second, atol=0, rtol=0)
