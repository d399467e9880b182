"""A server that follows a registry."""

import asyncio
import json
import logging
import shutil
from pathlib import Path

import pytest

from sfumato.model.bundle import find_bundle
from sfumato.sample.front import Front
from sfumato.serve import follow as follow_module
from sfumato.serve.app import create_app
from sfumato.serve.follow import Follower, follow_all
from sfumato.serve.worker import WorkerConfig
from sfumato.serve.workers import Workers
from sfumato.store.registry import Registry, RegistryError


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """Two versions of the smallest bundled model, of which the first is current."""
    registry = Registry(tmp_path / "pilot", create=True)
    folder = Path(shutil.copytree(find_bundle("tiny-chat"), tmp_path / "model"))
    config = folder / "config.json"
    for number in range(2):
        config.write_text(config.read_text() + "\n" * number)
        registry.add(folder, Front.load(folder).version(), evidence={"passed": True})
    registry.promote(registry.versions()[0])
    return registry


def test_promotions_and_rollbacks_are_served_and_told(registry, monkeypatch, caplog):
    monkeypatch.setattr(follow_module, "EVERY", 0.05)
    first, second = registry.versions()

    async def test() -> None:
        follower = Follower("pilot", registry)
        workers = Workers(WorkerConfig({"pilot": follower.path}, threads=1))
        service = create_app(workers, followers=[follower], manage=False).state.service
        await workers.start()
        following = asyncio.ensure_future(follow_all([follower], workers))
        try:
            for version, change in ((second, lambda: registry.promote(second)), (first, registry.rollback)):
                change()
                async with asyncio.timeout(30):
                    while follower.version != version or workers.versions["pilot"] != version.fingerprint:
                        await asyncio.sleep(0.02)
                assert workers.paths["pilot"] == str(registry.model(version)) == follower.path
                assert follower.facts() == {"version": version.id, "created": version.created, "parent": None}
                assert await service.reload("pilot") is False
            weights = next(registry.model(second).glob("model*.safetensors"))
            weights.chmod(0o644)
            whole = weights.read_bytes()
            registry.promote(second)
            following.cancel()
            weights.write_bytes(b"broken")
            with pytest.raises(ValueError, match="damaged"):
                await service.reload("pilot")
            assert follower.version == first and workers.versions["pilot"] == first.fingerprint
            weights.write_bytes(whole)
            assert await service.reload("pilot") is True and follower.version == second
        finally:
            following.cancel()
            await workers.stop(0)
            service.close()

    with caplog.at_level(logging.WARNING, "sfumato.serve"):
        asyncio.run(test())
    assert f"now version {second.id}" in caplog.text


def test_a_registry_without_a_current_version_cannot_be_served(registry, capsys, tmp_path):
    from sfumato.cli import main

    Registry(tmp_path / "empty", create=True)
    with pytest.raises(RegistryError, match="no version is current yet"):
        Follower("empty", Registry(tmp_path / "empty"))
    for words, why in (
        (["--registry", f"{tmp_path}/empty"], "no version is current yet"),
        (["--registry", f"{tmp_path}/nowhere"], "there is none"),
        (["--registry", f"a={registry.folder},a={registry.folder}"], "two models are called 'a'"),
        (["--registry", f"tiny={registry.folder}", "--model", "tiny"], "two models are called 'tiny'"),
    ):
        assert main(["serve", *words, "--feedback-url", "none"]) == 2
        assert why in capsys.readouterr().err
    assert json.loads(json.dumps(Follower("a", registry).facts()))["parent"] is None
