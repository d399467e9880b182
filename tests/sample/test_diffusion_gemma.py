"""DiffusionGemma through the library's class, on a tiny random model."""

import json
from pathlib import Path

import pytest
import torch

transformers = pytest.importorskip("transformers", reason="needs transformers, which is not installed")
if not hasattr(transformers, "DiffusionGemmaForBlockDiffusion"):
    pytest.skip("needs a transformers that has DiffusionGemma", allow_module_level=True)

from foreign import byte_pairs  # noqa: E402

from sfumato.model.weights import BundleError  # noqa: E402
from sfumato.sample.diffusion_gemma import DiffusionGemma  # noqa: E402

# The loop imports torch's compiler, whose own parts warn of one another.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
CANVAS = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokenizer, path = byte_pairs(), tmp_path_factory.mktemp("models") / "gemma"
    text = {
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "global_head_dim": 16,
        "sliding_window": 16,
        "layer_types": ["sliding_attention", "full_attention"],
        "eos_token_id": 0,
        "pad_token_id": 0,
        "bos_token_id": 0,
        "num_experts": 2,
        "top_k_experts": 1,
        "moe_intermediate_size": 16,
    }
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"num_key_value_heads": 2, "head_dim": 8}
    config = transformers.DiffusionGemmaConfig(
        text_config=text, vision_config={"model_type": "gemma4_vision", **vision}, canvas_length=CANVAS
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformers.DiffusionGemmaForBlockDiffusion(config).save_pretrained(path)
    tokenizer.save(str(path / "tokenizer.json"))
    return path


def test_it_writes_as_its_own_loop_does(folder: Path):
    model = DiffusionGemma.load(folder, "cpu", "float32")
    (written,) = model.generate(["the red cat"], max_tokens=2 * CANVAS, steps=3, seed=5)
    assert written.text.startswith("the red cat") and written.stats.committed <= 2 * CANVAS
    blocks = -(-written.stats.committed // CANVAS)
    assert blocks <= written.stats.nfe - blocks <= 3 * blocks  # one of the encoder, and the steps, in each canvas
    prompt = len(model.tokenizer.encode("the red cat").ids)
    assert written.stats.positions_evaluated == prompt + (blocks - 1) * CANVAS + (written.stats.nfe - blocks) * CANVAS


def test_a_text_follows_from_its_seed(folder: Path):
    model = DiffusionGemma.load(folder, "cpu", "float32")
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    one, two = (model.generate(["a", "b"], max_tokens=CANVAS, steps=2, seed=7) for _ in range(2))
    assert [text.tokens for text in one] == [text.tokens for text in two]
    assert model.generate(["a"], max_tokens=CANVAS, steps=2, seed=7)[0].tokens == one[0].tokens
    assert model.generate(["a"], max_tokens=CANVAS, steps=2, seed=8)[0].tokens != one[0].tokens
    assert torch.equal(torch.random.get_rng_state(), before)


def test_one_text_is_not_many(folder: Path):
    with pytest.raises(ValueError, match="prompts: expected several texts, got one; use \\['abc'\\]"):
        DiffusionGemma.load(folder, "cpu", "float32").generate("abc")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_tokens": 0}, "max_tokens and steps: expected at least 1, got 0 and None"),
        ({"steps": 0}, "max_tokens and steps: expected at least 1, got 256 and 0"),
        ({"entropy_bound": 0.0}, "entropy_bound: expected a number above 0, got 0.0"),
    ],
)
def test_options_out_of_range_are_one_line(folder: Path, options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        DiffusionGemma.load(folder, "cpu", "float32").generate(["a"], **options)


def test_other_folders_are_refused(folder: Path, tmp_path: Path):
    with pytest.raises(BundleError, match="config.json is missing"):
        DiffusionGemma.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    for broken in ("{", "[]"):
        (tmp_path / "config.json").write_text(broken)
        with pytest.raises(BundleError, match="config.json: "):
            DiffusionGemma.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(BundleError, match="model_type is 'bert', expected 'diffusion_gemma'; use sfumato.load"):
        DiffusionGemma.load(tmp_path)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(BundleError, match="cannot be loaded") as caught:
        DiffusionGemma.load(tmp_path)
    assert "\n" not in str(caught.value)
