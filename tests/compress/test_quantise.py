"""Codes and scales: how far they are from the numbers, what a calibrated rounding gains, and bundles made of them."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sfumato.compress.calibration import Calibration
from sfumato.compress.quantise import check_kind, quantised
from sfumato.compress.rounding import put_corrected, put_nearest
from sfumato.config import ConfigError, Recipe
from sfumato.data.batches import Batch
from sfumato.evaluate.memory import weight_bytes
from sfumato.model.bundle import Bundle
from sfumato.model.quantised import GREATEST, STORED, QuantisedMatrix, QuantisedTable, like, packed, unpacked
from sfumato.model.weights import BundleError
from sfumato.sample.language_model import LanguageModel
from sfumato.train.denoising import network

Make = Callable[..., Bundle]
KINDS = pytest.mark.parametrize("kind", list(STORED))


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def stored(weight_OI: Tensor, kind: str, group: int = 0) -> QuantisedMatrix:
    matrix = QuantisedMatrix(*weight_OI.shape, kind, group)
    put_nearest(matrix, weight_OI)
    return matrix


def test_two_codes_share_a_byte():
    codes = torch.randint(-8, 8, (5, 12), generator=torch.Generator().manual_seed(0)).to(torch.int8)
    assert packed(codes).shape == (5, 6) and torch.equal(unpacked(packed(codes)), codes)


@pytest.mark.parametrize(("kind", "group"), [("int8", 0), ("dynamic", 0), ("int4", 16), ("int4", 64)])
def test_no_number_is_further_from_its_code_than_half_a_step(kind: str, group: int):
    weight_OI = random(48, 64)
    matrix = stored(weight_OI, kind, group)
    step = matrix.scale.float().repeat_interleave(matrix.group, dim=1)
    # the greatest of a group may lie beyond the last code, by what rounding the scale to bfloat16 took away
    assert ((matrix.dense() - weight_OI).abs() <= step * (0.5 + GREATEST[kind] * 2**-8)).all()
    assert ((matrix.dense() - weight_OI).abs() <= step * 0.501).float().mean() > 0.95


def test_float8_keeps_four_bits_of_each_number():
    weight_OI = random(48, 64)
    matrix = stored(weight_OI, "float8")
    peak = weight_OI.abs().amax(dim=1, keepdim=True)
    assert ((matrix.dense() - weight_OI).abs() <= weight_OI.abs() / 16 + peak * 2**-8).all()


@pytest.mark.parametrize(("kind", "group"), [("int8", 0), ("int4", 16), ("float8", 0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_product_is_that_of_the_matrix_it_stands_for(kind: str, group: int, dtype: torch.dtype):
    matrix, x = stored(random(24, 32), kind, group).to(dtype), random(2, 5, 32, seed=1).to(dtype)
    expected = x @ matrix.dense(dtype).T
    assert matrix(x).dtype == dtype
    torch.testing.assert_close(
        matrix(x),
        expected,
        rtol=2e-2 if dtype == torch.bfloat16 else 1e-5,
        atol=1e-5 if dtype != torch.bfloat16 else 0.1,
    )  # noqa: E501


def test_an_integer_product_is_as_exact_as_its_inputs_and_knows_no_neighbours():
    matrix, x_NI = stored(random(24, 32), "dynamic"), random(9, 32, seed=1)
    step_N1 = x_NI.abs().amax(dim=1, keepdim=True) / 127
    error_NO = (matrix(x_NI) - x_NI @ matrix.dense().T).abs()
    assert (error_NO <= step_N1 / 2 * matrix.dense().abs().sum(dim=1) + 1e-5).all()
    alone = torch.cat([matrix(one) for one in x_NI.split(1)])
    assert torch.equal(alone, matrix(x_NI))
    assert matrix(x_NI[:0]).shape == (0, 24) and not matrix(torch.zeros(1, 32)).any()


def test_the_float8_product_of_a_gpu_is_right_where_torch_computes_it_here():
    matrix, x_NI = stored(random(32, 64), "float8"), random(16, 64, seed=1)
    product_NO, size_NO = x_NI @ matrix.dense().T, x_NI.abs() @ matrix.dense().abs().T
    try:
        matrix._float8(x_NI)
    except RuntimeError:
        pytest.skip(f"torch {torch.__version__} has one scale a matrix in its float8 products on a CPU")
    assert ((matrix._float8(x_NI) - product_NO).abs() <= size_NO / 16).all()  # of each input four bits are kept


def test_a_table_gives_rows_and_products():
    matrix = QuantisedTable(20, 16, "int8")
    put_nearest(matrix, random(20, 16))
    tokens = torch.tensor([[3, 0], [19, 3]])
    torch.testing.assert_close(matrix(tokens), matrix.dense()[tokens].bfloat16(), rtol=1e-2, atol=1e-2)
    assert torch.equal(matrix.float()(tokens), matrix.dense()[tokens])


@pytest.mark.parametrize(("kind", "group"), [("int4", 32), ("int8", 0)])
def test_corrected_rounding_changes_the_outputs_less(kind: str, group: int):
    """Inputs whose numbers depend on one another, as those of networks do."""
    x_NI = random(400, 8, seed=1) @ random(8, 64, seed=2) + 0.2 * random(400, 64, seed=3)
    weight_OI, nearest = random(48, 64), stored(random(48, 64), kind, group)
    corrected = QuantisedMatrix(48, 64, kind, group)
    put_corrected(corrected, weight_OI, (x_NI.T @ x_NI).double())

    def error(matrix: QuantisedMatrix) -> float:
        return float((x_NI @ (matrix.dense() - weight_OI).T).square().mean())

    assert error(corrected) < 0.5 * error(nearest)


def test_without_correlations_corrected_is_nearest():
    weight_OI, corrected = random(16, 32), QuantisedMatrix(16, 32, "int4", 8)
    put_corrected(corrected, weight_OI, torch.eye(32, dtype=torch.float64))
    assert torch.equal(corrected.weight, stored(weight_OI, "int4", 8).weight)


@KINDS
@pytest.mark.parametrize("tied", [True, False])
def test_a_quantised_bundle_is_the_same_after_loading(kind: str, tied: bool, bundle: Make, tmp_path: Path, noise):
    made = replace(bundle(torch.float32, tied=tied, qkv_bias=True), tokenizer_json="{}")
    sha = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"  # of {}
    made = replace(made, config=replace(made.config, tokenizer_sha256=sha))
    less = quantised(made, kind, group=8)
    less.save(tmp_path / "less")
    assert not [path for path in (tmp_path / "less").iterdir() if path.suffix not in (".json", ".safetensors", ".md")]
    again = Bundle.load(tmp_path / "less")
    assert again.config == less.config
    calibration = noise()
    one = next(calibration.noisings(made.denoiser))
    assert torch.equal(calibration.nats(again.denoiser, *one), calibration.nats(less.denoiser, *one))
    assert again.denoiser.num_parameters() == made.denoiser.num_parameters()
    assert weight_bytes(again.denoiser) < 0.6 * weight_bytes(made.denoiser)


def test_calibrating_loses_less_of_the_bound(model: LanguageModel, calibration: Calibration):
    base, bits = calibration.total(model.denoiser), {}
    for name, seen in (("nearest", None), ("corrected", calibration)):
        less = quantised(model.bundle, "int4", group=16, calibration=seen)
        bits[name] = abs(calibration.total(less.denoiser) - base)
    assert bits["corrected"] < bits["nearest"]


def test_parts_can_stay_as_they_are(model: LanguageModel):
    less = quantised(model.bundle, "int8", keep=("embedding", "blocks.0.", "down"))
    assert less.config.quantised
    left = {name for name, part in less.denoiser.named_modules() if isinstance(part, (nn.Linear, nn.Embedding))}
    assert {"embedding", "blocks.0.gate", "blocks.2.down"} <= left and "blocks.1.gate" not in left
    assert set(less.config.quantised.matrices).isdisjoint(left)


def test_a_quantised_model_writes_as_well(model: LanguageModel, tmp_path: Path):
    quantised(model.bundle, "dynamic").save(tmp_path / "less", torch.bfloat16)
    less = LanguageModel.load(tmp_path / "less", "cpu", "float32")
    first, second = (less.generate("Tom saw the", max_tokens=12, seed=seed).text for seed in (1, 1))
    assert first == second and first.startswith("Tom saw the")
    both = less.generate(["Tom saw the", "Lily"], max_tokens=12, seed=1)
    assert both[0].text == first  # neighbours change nothing


def test_training_refuses_a_quantised_model_in_one_line(model: LanguageModel, tmp_path: Path):
    less = quantised(model.bundle, "int8")
    less.save(tmp_path / "less")
    recipe = Recipe(init=str(tmp_path / "less"), model=less.config.model)
    with pytest.raises(ValueError, match="its weights are quantised .int8") as refusal:
        network(recipe, replace(less.config, quantised=None))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"matrices": {"blocks.0.gate": "int3"}}, "expected one of int8, int4, dynamic, float8"),
        ({"matrices": {"blocks.7.gate": "int8"}}, "has no matrix blocks.7.gate"),
        ({"matrices": {"blocks.0": "int8"}}, "blocks.0 is no matrix"),
        ({"matrices": {"blocks.0.gate": "int4"}, "group": 12}, "12 does not divide the 32 inputs of blocks.0.gate"),
        ({"matrices": {}}, "unexpected tensor .*; config.json describes another architecture"),
    ],
)
def test_a_description_that_does_not_fit_is_one_line(changes: dict, message: str, model: LanguageModel, tmp_path: Path):
    quantised(model.bundle, "int8").save(tmp_path / "less")
    path = tmp_path / "less" / "config.json"
    content = json.loads(path.read_text())
    content["quantised"] |= changes
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message) as refusal:
        Bundle.load(tmp_path / "less")
    assert "\n" not in str(refusal.value) and isinstance(refusal.value, (BundleError, ConfigError))


def test_it_is_not_done_twice(model: LanguageModel):
    with pytest.raises(ConfigError, match="quantised already"):
        quantised(quantised(model.bundle, "int8"), "int4")


def test_float8_needs_hardware_that_has_it():
    with pytest.raises(ConfigError, match="float8 needs a GPU .* got cpu; use int8"):
        check_kind("float8", torch.device("cpu"))


def test_what_is_no_matrix_is_refused():
    with pytest.raises(ConfigError, match="norm is no matrix"):
        like(nn.LayerNorm(4), "norm", "int8", 0)


@pytest.mark.gpu
@KINDS
def test_a_gpu_computes_what_the_cpu_does(kind: str, model: LanguageModel, calibration: Calibration):
    less = quantised(model.bundle, kind, group=16).denoiser
    batch: Batch = calibration.batch.select(torch.arange(2))
    here = replace(calibration, batch=batch)
    there = replace(here, device=torch.device("cuda"))
    one = next(here.noisings(less))
    expected = here.nats(less, *one)
    torch.testing.assert_close(there.nats(less.cuda(), *one), expected, rtol=0.02, atol=0.1)
