"""A model beside another: the same noise for both, and figures that are those of `evaluate`."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sfumato.compress.calibration import Calibration
from sfumato.compress.quantise import quantised
from sfumato.compress.report import BINS, costs, disk_bytes, quality
from sfumato.evaluate import likelihood
from sfumato.model.adapter import Adapter, AdapterConfig, identity
from sfumato.model.bundle import Bundle
from sfumato.sample.language_model import LanguageModel

BYTES = 4000


@pytest.fixture(scope="module")
def calibration(calibration: Calibration) -> Calibration:
    """A few rows of it."""
    return replace(calibration, batch=calibration.batch.select(torch.arange(24)))


@pytest.fixture(scope="module")
def less(model: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    folder: Path = tmp_path_factory.mktemp("less") / "int4"
    quantised(model.bundle, "int4", group=16).save(folder)
    return LanguageModel.load(folder, "cpu", "float32")


def test_a_model_beside_itself_differs_in_nothing(model: LanguageModel, calibration: Calibration):
    found = quality(model, model, calibration.batch, BYTES)
    assert found.bits_per_byte.difference == found.bits_per_byte.stderr == 0
    assert all(level.nats.difference == level.nats.stderr == 0 for level in found.levels)


def test_the_bound_is_that_of_evaluate_and_the_average_over_levels(
    model: LanguageModel, less: LanguageModel, calibration: Calibration
):
    batch = calibration.batch
    found = quality(model, less, batch, BYTES, samples=BINS, seed=3)
    for one, figure in ((model, found.bits_per_byte.original), (less, found.bits_per_byte.compressed)):
        expected = likelihood(one.denoiser, one.process, one.layout, batch, BYTES, samples=BINS, seed=3)
        assert figure == pytest.approx(expected.bits_per_byte, rel=1e-6)
    assert len(found.levels) == BINS and found.kind == "bound"
    nats = [level.nats.original for level in found.levels]
    assert nats == sorted(nats)  # the more noise, the harder
    whole = likelihood(model.denoiser, model.process, model.layout, batch, BYTES, samples=BINS, seed=3).nats_per_token
    assert sum(nats) / BINS == pytest.approx(whole, rel=1e-6)


def test_a_smaller_model_needs_less(model: LanguageModel, less: LanguageModel):
    before, after = costs(model, less, ["Tom saw", "Lily"], max_tokens=8, batch=1)
    assert before.parameters == after.parameters
    assert after.disk_bytes < before.disk_bytes
    assert after.memory_bytes < before.memory_bytes / 2
    assert before.tokens_per_second > 0 < after.tokens_per_second and before.slowest <= before.fastest


def test_blocks_have_levels_too(model: LanguageModel, calibration: Calibration):
    config = model.bundle.config
    config = replace(config, layout="block", model=replace(config.model, block=8))
    blocks = LanguageModel(replace(model.bundle, config=config))
    found = quality(blocks, blocks, calibration.batch, BYTES)
    nats = [level.nats.original for level in found.levels]
    assert len(nats) == BINS and nats[0] < nats[-1]


def test_an_adapter_takes_the_room_of_its_base_too(folder: Path, tmp_path: Path):
    low, up = torch.zeros(2, 32), torch.zeros(64, 2)
    tensors = {"blocks.0.gate.lora_A": low, "blocks.0.gate.lora_B": up}
    config = AdapterConfig(base=str(folder), base_sha256=identity(folder), rank=2, scale=1.0)
    replace(Bundle.load(folder), adapter=Adapter(config, tensors)).save(tmp_path / "adapted")
    more = (tmp_path / "adapted" / "adapter.safetensors").stat().st_size
    assert disk_bytes(tmp_path / "adapted") == disk_bytes(folder) + more
