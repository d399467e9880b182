"""The model folder: what is saved comes back bit for bit, and whatever does not match is refused in one line."""

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sfumato.config import ModelConfig, ProcessConfig
from sfumato.model.bundle import Bundle, BundleConfig, BundleError, SpecialTokens
from sfumato.model.transformer import Transformer
from sfumato.model.weights import SHARD_BYTES

TOKENIZER = '{"any": "tokenizer — ü"}'  # the bundle pins it and does not look inside


def bundle(network: Transformer, **changes: Any) -> Bundle:
    config = BundleConfig(
        model=network.config,
        process=ProcessConfig(schedule="cosine", objective="count"),
        layout="full",
        shift=0,
        tokens=SpecialTokens(mask=0, end=1, pad=2, start=3),
        tokenizer_sha256=hashlib.sha256(TOKENIZER.encode()).hexdigest(),
        sampler={"sampler": "threshold", "threshold": 0.8},
        made={"steps": 7, "recipe": "tïny"},
    )
    return Bundle(replace(config, **changes), network, TOKENIZER, "# Card — ü\n")


@pytest.fixture
def folder(tmp_path: Path, network: Callable[..., Transformer]) -> Path:
    """A saved bundle."""
    bundle(network(torch.float32)).save(tmp_path / "model")
    return tmp_path / "model"


def edited(folder: Path, *keys: str, value: Any = None) -> Path:
    """Set an entry of config.json, or delete it (None)."""
    path = folder / "config.json"
    content = entry = json.loads(path.read_text())
    for key in keys[:-1]:
        entry = entry[key]
    entry.pop(keys[-1], None)
    if value is not None:
        entry[keys[-1]] = value
    path.write_text(json.dumps(content))
    return path


def weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    """Change the tensors of model.safetensors."""
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors")


def refused(folder: Path, expected: str, path: Path | None = None) -> None:
    """Loading fails with one line that names the file (or the folder) and says what is wrong."""
    with pytest.raises(ValueError, match=expected) as caught:
        Bundle.load(folder)
    message = str(caught.value)
    assert message.startswith(str(path or folder)) and "\n" not in message, message


@pytest.mark.parametrize("changes", [{}, {"tied": False}, {"time_conditioning": True, "kv_heads": 2}])
def test_what_is_saved_comes_back_bit_for_bit(
    tmp_path: Path, network: Callable[..., Transformer], changes: dict
) -> None:
    saved = bundle(network(torch.float32, **changes))
    saved.save(tmp_path / "new" / "model")
    assert sorted(path.name for path in (tmp_path / "new").rglob("*")) == [
        "README.md", "config.json", "model", "model.safetensors", "tokenizer.json"
    ]  # fmt: skip
    loaded = Bundle.load(tmp_path / "new" / "model")
    assert (loaded.config, loaded.tokenizer_json, loaded.card) == (saved.config, saved.tokenizer_json, saved.card)
    for name, tensor in saved.denoiser.state_dict().items():
        assert torch.equal(loaded.denoiser.state_dict()[name], tensor), name
    assert torch.equal(loaded.denoiser.forbidden_V.isinf().nonzero().flatten(), torch.tensor([0, 2, 3]))
    assert not loaded.denoiser.training and not any(p.requires_grad for p in loaded.denoiser.parameters())


def test_loading_draws_nothing_and_imports_nothing_large(folder: Path, network: Callable[..., Transformer]) -> None:
    bundle(network()).save(folder)
    code = "import sys; from sfumato.model.bundle import Bundle; Bundle.load(sys.argv[1]); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, str(folder)], check=True, capture_output=True, text=True)
    assert not {"sympy", "transformers", "torch._dynamo"} & set(done.stdout.split())


def test_saving_again_gives_the_same_files(folder: Path, tmp_path: Path) -> None:
    Bundle.load(folder).save(tmp_path / "again")
    for path in folder.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


def test_precision_is_chosen_on_the_way_out_and_on_the_way_in(
    tmp_path: Path, network: Callable[..., Transformer]
) -> None:
    exact = network(torch.float32)
    bundle(exact).save(tmp_path / "model", torch.bfloat16)
    assert {t.dtype for t in load_file(tmp_path / "model" / "model.safetensors").values()} == {torch.bfloat16}
    for dtype in (torch.bfloat16, torch.float32):
        loaded = Bundle.load(tmp_path / "model", dtype=dtype).denoiser
        assert {p.dtype for p in loaded.parameters()} == {dtype}
        assert torch.equal(loaded.embedding.weight, exact.embedding.weight.bfloat16().to(dtype))


def test_saving_over_a_bundle_replaces_all_of_it(folder: Path, network: Callable[..., Transformer]) -> None:
    (folder / "model-00001-of-00002.safetensors").write_bytes(b"left over")
    bundle(network(torch.float32, tied=False)).save(folder)
    assert sorted(p.name for p in folder.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    assert Bundle.load(folder).denoiser.head is not None
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_large_weights_are_cut_into_shards(tmp_path: Path) -> None:
    config = ModelConfig(vocab_size=8192, width=256, layers=3, heads=4, mlp_width=704)
    saved = bundle(Transformer(config).initialise(0))
    saved.save(tmp_path / "model")
    shards = sorted((tmp_path / "model").glob("*.safetensors"))
    assert [path.name for path in shards] == ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert all(path.stat().st_size <= SHARD_BYTES + 10_000 for path in shards)
    loaded = Bundle.load(tmp_path / "model").denoiser.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in saved.denoiser.state_dict().items())
    shards[1].unlink()
    refused(tmp_path / "model", "is missing from the weights.*a shard may be missing")


# What fails here fails for real: the card is not text that a file can hold, or the kernel refuses to write more.


def test_an_interrupted_save_leaves_the_old_bundle(folder: Path, network: Callable[..., Transformer]) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    broken = replace(bundle(network(torch.float32, tied=False)), card="\ud800")
    with pytest.raises(UnicodeEncodeError):
        broken.save(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["model"], "something was left behind"


@pytest.mark.parametrize("size", [300, 20_000])  # room for nothing, and for all but the weights
def test_a_full_disk_leaves_the_old_bundle_and_one_line(
    folder: Path,
    network: Callable[..., Transformer],
    disk_full: Callable[[int], AbstractContextManager[None]],
    size: int,
) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with disk_full(size), pytest.raises(OSError, match="cannot write the bundle.*File too large") as caught:
        bundle(network(torch.float32, width=64, layers=1)).save(folder)
    assert str(caught.value).startswith(str(folder)) and "\n" not in str(caught.value)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "none", "no such model folder; give the path of a bundle, such as RUN/model")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    refused(folder, f"not a model bundle: {name} is missing; expected config.json, tokenizer.json and model")


def test_missing_weights_are_named(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    refused(folder, "no weights: expected model.safetensors or model-")


def test_a_missing_card_is_no_error(folder: Path) -> None:
    (folder / "README.md").unlink()
    assert Bundle.load(folder).card == ""


@pytest.mark.parametrize("size", [0, 5, 100, 3000, -1])
def test_truncated_weights_are_refused(folder: Path, size: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    refused(folder, "truncated or damaged weights .*; copy the file again", path)


def test_weights_that_are_no_file_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").mkdir()
    refused(folder, "truncated or damaged weights", folder / "model.safetensors")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(folder: Path, value: float) -> None:
    weights(folder, lambda state: state["blocks.1.up.weight"][3].fill_(value))
    refused(folder, "tensor 'blocks.1.up.weight' holds NaN or infinity")


def test_a_wrong_shape_is_refused(folder: Path) -> None:
    weights(folder, lambda state: state.update({"final_norm": torch.ones(31)}))
    refused(folder, re.escape("tensor 'final_norm' has shape [31], config.json asks for [32]"))


def test_an_unexpected_tensor_is_refused(folder: Path) -> None:
    weights(folder, lambda state: state.update({"lora.weight": torch.ones(3)}))
    refused(folder, "unexpected tensor 'lora.weight'; config.json describes another architecture")


def test_a_missing_tensor_is_refused(folder: Path) -> None:
    weights(folder, lambda state: state.pop("final_norm"))
    refused(folder, "tensor 'final_norm' is missing from the weights")


def test_a_tensor_that_comes_twice_is_refused(folder: Path) -> None:
    path = folder / "model-old.safetensors"
    path.write_bytes((folder / "model.safetensors").read_bytes())
    refused(folder, "is in another file too; remove the one that is too many", folder / "model")


def test_another_tokenizer_is_refused(folder: Path) -> None:
    path = folder / "tokenizer.json"
    path.write_text(TOKENIZER + " ")
    refused(
        folder, r"not the tokenizer this model was trained with: SHA-256 \w{12}\.\.\., expected \w{12}\.\.\.;", path
    )


def test_a_tokenizer_that_is_no_text_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").write_bytes(b"{\xff}")
    refused(folder, "not UTF-8 text", folder / "tokenizer.json")


@pytest.mark.parametrize("value", ["sfumato-bundle-0", 3, None])
def test_another_format_is_refused(folder: Path, value: Any) -> None:
    refused(
        folder, 'not a Sfumato bundle: expected "format": "sfumato-bundle-1"', edited(folder, "format", value=value)
    )


@pytest.mark.parametrize("text, expected", [("{\n,}", ":2: not valid JSON"), ("[]", "not a Sfumato bundle")])
def test_a_config_that_is_no_json_object_is_refused(folder: Path, text: str, expected: str) -> None:
    (folder / "config.json").write_text(text)
    refused(folder, expected, folder / "config.json")


@pytest.mark.parametrize(
    "keys, value, expected",
    [
        (("model", "widht"), 32, "unknown key model.widht; did you mean model.width"),
        (("extra",), 1, "unknown key extra"),
        (("model",), None, "missing key model"),
        (("tokens", "start"), None, "tokens: missing key start"),
        (("model", "width"), "wide", "model.width: expected a whole number, got 'wide'"),
        (("model", "width"), 33, "model.width must be a multiple"),
        (("process", "schedule"), "sine", "process.schedule: expected linear, cosine or log-linear, got 'sine'"),
        (("layout",), "blocks", "layout: got 'blocks', expected one of full, causal, block"),
        (("layout",), "block", "layout 'block' needs model.block, the size of a block; got 0"),
        (("model", "block"), 8, "model.block is 8, but layout 'full' has no blocks"),
        (("tokens", "mask"), 23, "tokens.mask is 23, expected an id below model.vocab_size = 23"),
        (("tokens", "start"), -1, "tokens.start is -1"),
        (("model", "vocab_size"), 0, "expected an id below model.vocab_size = 0"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(
    folder: Path, keys: tuple[str, ...], value: Any, expected: str
) -> None:
    refused(folder, expected, edited(folder, *keys, value=value))


@pytest.mark.parametrize(
    "keys, value", [(("model", "layers"), 3), (("model", "width"), 64), (("model", "tied"), False)]
)
def test_a_config_of_another_network_is_refused(folder: Path, keys: tuple[str, ...], value: Any) -> None:
    edited(folder, *keys, value=value)
    refused(folder, "config.json asks for|is missing from")
    with pytest.raises(BundleError):
        Bundle.load(folder)
