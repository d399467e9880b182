"""Networks of the transformers library that are tuned: adapted, by adapters, stopped and continued."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sfumato.canvas import Where
from sfumato.config import ConfigError, LoraConfig, ModelConfig, ProcessConfig, Recipe, Source
from sfumato.config.tuning import AdaptConfig
from sfumato.model.bundle import Bundle, BundleConfig, SpecialTokens
from sfumato.model.families import MASKED
from sfumato.model.foreign import Foreign
from sfumato.model.layout import Full
from sfumato.model.transformer import Transformer
from sfumato.sample.language_model import LanguageModel
from sfumato.text.tokenizer import Tokenizer
from sfumato.tune.adapt import prepare
from sfumato.tune.methods import tune

pytest.importorskip("transformers", reason="needs transformers, which is not installed")

from foreign import save_tiny, tiny_config  # noqa: E402

Make = Callable[..., Recipe]
ROWS = {"width": 256, "layers": 6, "heads": 4, "mlp_width": 704}  # as a recipe that says nothing of the network


@pytest.fixture
def public(tmp_path: Path) -> Callable[[str], str]:
    """`public("bert")`: a bundle around a random network of that family, with a tokenizer of ours."""

    def make(kind: str) -> str:
        tokenizer = Tokenizer.train(["red blue green black a b c d e f g 0 1 2 3 4 5 6 7 8 9\n"], 263)
        foreign = tiny_config(kind, vocab_size=tokenizer.vocab_size)
        masked = kind in MASKED
        config = BundleConfig(
            model=ModelConfig(vocab_size=tokenizer.vocab_size, width=32, layers=3, heads=4, mlp_width=48, context=40),
            process=ProcessConfig(kind="masked", levels=(0.14, 0.16)) if masked else ProcessConfig("autoregressive"),
            layout="full" if masked else "causal",
            shift=0 if masked else 1,
            tokens=SpecialTokens(tokenizer.mask_id, tokenizer.end_id, tokenizer.pad_id, tokenizer.start_id),
            tokenizer_sha256=tokenizer.fingerprint,
            made={"model_type": kind},
            foreign=foreign,
        )
        denoiser = Foreign(foreign, never_written=config.tokens.never_written).initialise(3)
        folder = tmp_path / kind
        Bundle(config, denoiser, tokenizer.to_json()).save(folder)
        return str(folder)

    return make


@pytest.mark.parametrize("block", [0, 8])
@pytest.mark.parametrize("shift", ["keep", "remove"])
@pytest.mark.parametrize("kind", ["gpt2", "gemma3_text"])
def test_a_causal_model_becomes_a_diffusion_model(
    kind: str, shift: str, block: int, small_recipe: Make, public: Callable[[str], str], tmp_path: Path
):
    recipe = small_recipe(ROWS | {"block": block}, init=public(kind), method="adapt", adapt=AdaptConfig(shift))
    folder, _ = tune(recipe, tmp_path / "run")
    assert folder is not None
    model = LanguageModel.load(folder, "cpu")
    config = model.bundle.config
    assert isinstance(model.denoiser, Foreign) and (config.model.context, config.model.width) == (32, 32)
    assert (config.process.kind, config.layout) == ("masked", "block" if block else "full")
    assert model.process.shift == (shift == "keep")
    written = model.generate("red blue", max_tokens=8, seed=1)
    assert written.stats.nfe > 0 and written.text.startswith("red blue")
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [record["later_seen"] for record in records] == [0.0, 0.5, 1.0, 1.0]


@pytest.mark.parametrize("kind", ["bert", "xlm-roberta", "distilbert"])
def test_a_masked_model_learns_the_other_levels(
    kind: str, small_recipe: Make, public: Callable[[str], str], tmp_path: Path
):
    init = public(kind)
    assert LanguageModel.load(init, "cpu").generate("red", max_tokens=6, seed=1).text.startswith("red")
    folder, _ = tune(small_recipe(ROWS, init=init, method="adapt"), tmp_path / "run")
    model = LanguageModel.load(folder, "cpu")
    assert model.bundle.config.process.levels == (0.0, 1.0)
    assert model.generate("red", max_tokens=6, steps=3, seed=1).text.startswith("red")


@pytest.mark.parametrize("kind", ["qwen2", "gpt2", "bert", "xlm-roberta"])
def test_a_public_folder_becomes_one_of_our_bundles_that_writes(kind: str, small_recipe: Make, tmp_path: Path):
    init = save_tiny(tmp_path / "public", kind)
    text = LanguageModel.load(init, "cpu").generate("the red", max_tokens=4, seed=1).text
    assert text.startswith("the red")
    recipe = small_recipe(ROWS, init=str(init), method="adapt", adapt=AdaptConfig(anneal=0.5))
    folder, _ = tune(recipe, tmp_path / "run")
    model = LanguageModel.load(folder, "cpu")
    assert isinstance(model.denoiser, Transformer if kind == "qwen2" else Foreign)
    config = model.bundle.config
    assert (config.process.kind, config.layout, config.tokens.written) == ("masked", "full", False)
    assert config.shift == (kind not in MASKED) and config.model.context == 32
    written = model.generate(["the red cat", "a blue"], max_tokens=8, seed=1)
    assert [text.text.split()[0] for text in written] == ["the", "a"]
    assert all(config.tokens.mask not in text.tokens for text in written)
    again, _ = tune(replace(recipe, init=str(folder), method="text"), tmp_path / "again")
    assert again is not None and Bundle.load(again).config.shift == config.shift


@pytest.mark.parametrize(("method", "levels"), [("text", (0.14, 0.16)), ("answers", (0.0, 1.0))])
def test_a_masked_model_learns_texts_as_it_did_and_answers_at_all_levels(
    method: str, levels: tuple[float, float], small_recipe: Make, tmp_path: Path
):
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"prompt": "red", "response": "the cat"}\n{"prompt": "blue", "response": "a dog"}\n' * 20)
    recipe = small_recipe(ROWS, init=str(save_tiny(tmp_path / "public", "bert")), method=method)
    if method == "answers":
        source = Source(str(path), prompt="{prompt}", response="{response}")
        recipe = replace(recipe, data=replace(recipe.data, sources=(source,)))
    folder, _ = tune(recipe, tmp_path / "run")
    model = LanguageModel.load(folder, "cpu")
    assert model.bundle.config.process.levels == levels
    if method == "answers":
        assert model.reply([{"role": "user", "content": "red"}], max_tokens=6).stats.nfe > 0


@pytest.mark.parametrize("kind", ["qwen2", "bert"])
def test_a_public_model_that_is_adapted_and_killed_goes_on_bit_for_bit(
    kind: str, small_recipe: Make, killed_anywhere: Callable[[Recipe], None], tmp_path: Path
):
    killed_anywhere(small_recipe(ROWS, init=str(save_tiny(tmp_path / "public", kind)), method="adapt"))


@pytest.mark.parametrize("kind", ["gpt2", "roberta"])
def test_a_run_that_is_killed_anywhere_goes_on_bit_for_bit(
    kind: str, small_recipe: Make, public: Callable[[str], str], killed_anywhere: Callable[[Recipe], None]
):
    killed_anywhere(small_recipe(ROWS, init=public(kind), method="adapt"))


def test_the_mask_begins_as_the_mean_of_all(small_recipe: Make, public: Callable[[str], str]):
    init = public("gpt2")
    before = Bundle.load(Path(init)).denoiser
    for mask in ("mean", "keep"):
        run = prepare(small_recipe(ROWS, init=init, adapt=AdaptConfig(mask=mask)), Tokenizer.load(init), 4, None)
        for tables in (dict(run.state.denoiser.named_parameters()), run.state.average):
            row_D = tables["transformer.wte.weight"][run.config.tokens.mask]
            table_VD = before.get_parameter("transformer.wte.weight")
            expected_D = table_VD.mean(dim=0) if mask == "mean" else table_VD[run.config.tokens.mask]
            torch.testing.assert_close(row_D.detach(), expected_D)


@pytest.mark.parametrize("kind", ["bert", "gemma", "gpt2"])
@pytest.mark.parametrize("merge", [True, False])
def test_adapters_of_all_linear_layers(
    kind: str, merge: bool, small_recipe: Make, public: Callable[[str], str], tmp_path: Path
):
    pytest.importorskip("peft", reason="needs peft, which is not installed")
    init, lora = public(kind), LoraConfig(rank=2, merge=merge)
    recipe = small_recipe(ROWS, init=init, method="adapt", lora=lora, adapt=AdaptConfig(mask="keep"))
    folder, _ = tune(recipe, tmp_path / "run")
    assert folder is not None
    assert (folder / "adapter.safetensors").exists() is not merge
    before, after = (Bundle.load(Path(one)).denoiser.state_dict() for one in (init, folder))
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    linear = {
        n
        for n, p in after.items()
        if p.ndim == 2 and "embed" not in n and n.startswith(("bert.", "model.", "transformer.h"))
    }
    assert changed >= linear if merge else changed == linear  # a merged bundle is stored in bfloat16


@pytest.mark.parametrize("kind", ["roberta", "gpt2", "opt"])
def test_a_merged_network_computes_what_the_one_with_adapters_does(kind: str, public: Callable[[str], str]):
    from sfumato.model.lora import add_adapters, merged

    bundle = Bundle.load(Path(public(kind)), dtype=torch.float64)
    network = bundle.denoiser
    add_adapters(network, LoraConfig(rank=3, alpha=5.0), seed=4)
    network.double()
    for name, parameter in network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(len(name)))
    plain = network.blank().double().eval()
    plain.load_state_dict(merged(network, dict(network.named_parameters())))
    tokens_BL, where = torch.arange(7, 20)[None], Where(torch.arange(13)[None], None)
    told = [n.readout(n.encode(tokens_BL, where=where, layout=Full())) for n in (network.eval(), plain)]
    torch.testing.assert_close(*told, rtol=0, atol=1e-12)


def test_recomputed_layers_train_the_same(small_recipe: Make, public: Callable[[str], str], tmp_path: Path):
    init = public("gpt2")
    runs = []
    for lean in (False, True):
        recipe = small_recipe(ROWS, train={"checkpointing": lean}, init=init, method="adapt")
        folder, _ = tune(recipe, tmp_path / f"run{lean}")
        runs.append(Bundle.load(Path(str(folder))).denoiser.state_dict())
    for name, tensor in runs[0].items():
        torch.testing.assert_close(tensor, runs[1][name])


@pytest.mark.parametrize(
    ("kind", "changed", "message"),
    [
        ("bert", {"process": ProcessConfig("insertion")}, "process.kind: got 'insertion', expected what the model"),
        ("bert", {"lora": LoraConfig(rank=2, targets=("query",))}, "lora.targets: bert has matrices of its own"),
        ("gemma", {"lora": LoraConfig(rank=2, merge=False)}, "adapt.mask: 'mean' changes the embedding"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    kind: str, changed: dict, message: str, small_recipe: Make, public: Callable[[str], str], tmp_path: Path
):
    pytest.importorskip("peft", reason="needs peft, which is not installed")
    recipe = replace(small_recipe(ROWS, init=public(kind), method="adapt"), **changed)
    with pytest.raises(ConfigError, match=message) as caught:
        tune(recipe, tmp_path / "run")
    assert "\n" not in str(caught.value)
