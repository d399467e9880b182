"""One server, two adapters of one base: each writes as itself, and one that changed is read anew."""

from dataclasses import replace
from pathlib import Path

import httpx
import torch
from bundles import make
from servers import KEY, Server

from sfumato.model.adapter import Adapter, AdapterConfig, identity
from sfumato.model.bundle import Bundle
from sfumato.sample.language_model import LanguageModel
from sfumato.text.tokenizer import Tokenizer


def adapted(base: Path, folder: Path, seed: int) -> Path:
    """A random adapter of a model."""
    draw = torch.Generator().manual_seed(seed)
    shapes = {"blocks.0.down.lora_A": (2, 24), "blocks.0.down.lora_B": (16, 2)}
    tensors = {name: torch.randn(*shape, generator=draw) for name, shape in shapes.items()}
    config = AdapterConfig(str(base), identity(base), 2, 1.0)
    replace(Bundle.load(base), adapter=Adapter(config, tensors)).save(folder)
    return folder


def test_two_adapters_are_served_side_by_side(tmp_path: Path) -> None:
    base = tmp_path / "base"
    make(Tokenizer.train(["one two three four five"], 270)).save(base)
    folders = {name: adapted(base, tmp_path / name, seed) for seed, name in enumerate(("first", "second"))}
    (tmp_path / "keys").write_text(f"me:{KEY}\n")
    models = ",".join(map(str, (base, *folders.values())))
    server = Server("--model", models, "--api-key-file", f"{tmp_path}/keys", "--dtype", "float32")

    def asked(name: str) -> tuple[str, str]:
        answer = server.client.completions.create(model=name, prompt="one", max_tokens=12, seed=1)
        return answer.choices[0].text, answer.system_fingerprint

    told = {name: asked(name) for name in ("base", *folders)}
    assert len({text for text, _ in told.values()}) == len({version for _, version in told.values()}) == 3
    for name, folder in {"base": base, **folders}.items():
        alone = LanguageModel.load(folder, dtype="float32")
        assert told[name] == (alone.generate("one", max_tokens=12, seed=1).completion, alone.front.version())
    adapted(base, folders["first"], 7)
    said = {"json": {"model": "first"}, "headers": {"authorization": f"Bearer {KEY}"}}
    assert httpx.post(f"{server.url}/admin/reload", **said).json()["changed"] is True
    assert asked("first")[1] != told["first"][1] and asked("second") == told["second"]
    assert server.end() == (0, "")
