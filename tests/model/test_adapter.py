"""Adapters on disk: what is loaded is the base with the adapter added, and anything that does not match is refused."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import public
import pytest
import torch
from bundles import make
from safetensors.torch import load_file, save_file

from sfumato.config import LoraConfig
from sfumato.model.adapter import Adapter, AdapterConfig, identity
from sfumato.model.bundle import Bundle, BundleError, find_bundle
from sfumato.sample.language_model import LanguageModel
from sfumato.text.tokenizer import Tokenizer

RANK, SCALE = 2, 1.5


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapter") / "base"
    make(Tokenizer.train(["a small base"], 263)).save(folder)
    return folder


@pytest.fixture
def folder(base: Path, tmp_path: Path) -> Path:
    """An adapter of two matrices."""
    bundle = Bundle.load(base)
    draw = torch.Generator().manual_seed(1)
    tensors = {
        f"blocks.0.{name}.lora_{half}": torch.randn(*shape, generator=draw)
        for name, outputs, inputs in (("attention.query", 16, 16), ("down", 16, 24))
        for half, shape in (("A", (RANK, inputs)), ("B", (outputs, RANK)))
    }
    adapter = Adapter(AdapterConfig(str(base), identity(base), RANK, SCALE), tensors)
    replace(bundle, adapter=adapter, card="# Adapted\n").save(tmp_path / "adapted")
    return tmp_path / "adapted"


def test_a_folder_is_loaded_as_its_base_with_the_adapter_added(base: Path, folder: Path) -> None:
    adapted, plain = Bundle.load(folder), Bundle.load(base)
    assert adapted.config == plain.config and adapted.card == "# Adapted\n"
    tensors, found = load_file(folder / "adapter.safetensors"), adapted.denoiser.state_dict()
    for name, weight in plain.denoiser.state_dict().items():
        matrix = name.removesuffix(".weight")
        if f"{matrix}.lora_A" in tensors:
            weight = weight + SCALE * tensors[f"{matrix}.lora_B"] @ tensors[f"{matrix}.lora_A"]
            assert not torch.equal(found[name], plain.denoiser.state_dict()[name])
        torch.testing.assert_close(found[name], weight, rtol=0, atol=1e-6)


def test_what_was_loaded_is_saved_as_an_adapter_again_or_merged(folder: Path, tmp_path: Path) -> None:
    loaded = Bundle.load(folder)
    loaded.save(tmp_path / "elsewhere" / "again")
    assert (tmp_path / "elsewhere/again/config.json").read_text() == (folder / "config.json").read_text()
    replace(loaded, adapter=None).save(tmp_path / "merged")
    assert json.loads((tmp_path / "merged/config.json").read_text())["format"] == "sfumato-bundle-1"
    for other in (tmp_path / "elsewhere/again", tmp_path / "merged"):
        state = Bundle.load(other).denoiser.state_dict()
        assert all(torch.equal(state[name], weight) for name, weight in loaded.denoiser.state_dict().items())


def test_an_adapter_can_be_the_base_of_another(folder: Path, base: Path, tmp_path: Path) -> None:
    first = Bundle.load(folder)
    assert first.adapter is not None
    config = replace(first.adapter.config, base=str(folder), base_sha256=identity(folder))
    replace(first, adapter=Adapter(config, first.adapter.tensors)).save(tmp_path / "twice")
    once, twice, none = (Bundle.load(f).denoiser.blocks[0].down.weight for f in (folder, tmp_path / "twice", base))
    torch.testing.assert_close(twice - none, 2 * (once - none), rtol=0, atol=1e-5)
    edit(folder, scale=SCALE + 1)
    with pytest.raises(BundleError, match="has other weights than the model it was made from"):
        Bundle.load(tmp_path / "twice")


def test_an_adapter_of_itself_is_refused(folder: Path) -> None:
    edit(folder, base=".", base_sha256=identity(folder))
    with pytest.raises(BundleError, match="has other weights than the model it was made from"):
        Bundle.load(folder)


def test_a_base_is_found_by_its_path_beside_the_adapter_and_by_the_name_of_a_bundled_model(
    folder: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit(folder, base="../base")
    with pytest.raises(BundleError, match=r"its base \.\./base is missing"):
        Bundle.load(folder)
    shutil.copytree(base, tmp_path / "base")
    monkeypatch.chdir(base)  # where we stand does not matter
    Bundle.load(folder)
    edit(folder, base="tiny", base_sha256=identity(find_bundle("tiny")))
    with pytest.raises(BundleError, match="config.json asks for"):  # found, and of other sizes
        Bundle.load(folder)


def test_the_identity_of_a_public_model_is_of_its_weights_whatever_the_file_is_called(tmp_path: Path) -> None:
    public.write_checkpoint(tmp_path, public.LLADA)
    (tmp_path / "model.safetensors").rename(tmp_path / "weights.safetensors")
    before = identity(tmp_path)
    (tmp_path / "model.safetensors").unlink(missing_ok=True)
    public.write_checkpoint(tmp_path / "other", public.LLADA, seed=1)
    (tmp_path / "other" / "model.safetensors").rename(tmp_path / "weights.safetensors")
    assert identity(tmp_path) != before


def test_an_adapter_writes_and_has_a_version_of_its_own(folder: Path, base: Path) -> None:
    adapted, plain = LanguageModel.load(folder), LanguageModel.load(base)
    written = [model.generate("a", max_tokens=8, seed=1).tokens for model in (adapted, plain)]
    assert written[0] != written[1]
    before = adapted.front.version()
    assert before != plain.front.version()
    tensors = load_file(folder / "adapter.safetensors")
    save_file({name: tensor + 0.1 for name, tensor in tensors.items()}, folder / "adapter.safetensors")
    assert LanguageModel.load(folder).front.version() != before


def edit(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    content = json.loads(path.read_text())
    content["adapter"].update(changes)
    path.write_text(json.dumps(content))


def change(folder: Path, how: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "adapter.safetensors")
    how(tensors)
    save_file(tensors, folder / "adapter.safetensors")


QUERY = "blocks.0.attention.query"


@pytest.mark.parametrize(
    ("harm", "complaint"),
    [
        (lambda f: edit(f, base="gone"), "its base gone is missing: an adapter works only with the model it was made"),
        (lambda f: edit(f, base_sha256="0" * 64), "has other weights than the model it was made from: SHA-256"),
        (lambda f: edit(f, rank="two"), "adapter: rank: expected a whole number"),
        (lambda f: edit(f, speed=1), "adapter: unknown key speed"),
        (lambda f: edit(f, rank=3), r"has shape \[2, 16\], its base and its rank ask for \[3, 16\]"),
        (lambda f: (f / "adapter.safetensors").unlink(), "no weights: expected adapter.safetensors"),
        (lambda f: (f / "adapter.safetensors").write_bytes(b"x"), "truncated or damaged weights"),
        (lambda f: change(f, lambda t: t.pop(f"{QUERY}.lora_A")), "query.lora_A' is missing from the adapter"),
        (lambda f: change(f, lambda t: t.update({"a.lora_A": torch.ones(2, 2)})), "unexpected tensor 'a.lora_A'"),
        (lambda f: change(f, lambda t: t[f"{QUERY}.lora_B"].fill_(torch.nan)), "holds NaN or infinity"),
        (lambda f: change(f, lambda t: t.update({f"{QUERY}.lora_B": torch.ones(16, 2).int()})), "expected floating"),
        (lambda f: change(f, lambda t: t.update({f"{QUERY}.lora_A": torch.ones(2, 15)})), r"\[2, 15\]"),
    ],
)
def test_what_does_not_match_is_one_line(folder: Path, harm: Callable[[Path], object], complaint: str) -> None:
    harm(folder)
    with pytest.raises(ValueError, match=complaint) as caught:
        Bundle.load(folder)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


def test_a_base_whose_weights_changed_is_refused(folder: Path, base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "base")
    edit(folder, base="../base")
    Bundle.load(folder)
    bundle = Bundle.load(base)
    bundle.denoiser.embedding.weight.data[0, 0] += 1
    bundle.save(tmp_path / "base")
    with pytest.raises(BundleError, match=r"other weights .*; restore the original weights"):
        Bundle.load(folder)


def test_adapters_of_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match=r"lora.targets: expected some of query"):
        LoraConfig(rank=1, targets=())
