"""Folders that we write: bit-equal when they are read again, and loaded by the library's Auto classes."""

import json
from dataclasses import replace
from pathlib import Path

import bundles
import foreign
import public
import pytest
import torch
from public_logits import whole
from safetensors.torch import load_file
from torch import Tensor

import sfumato.model.hub
from sfumato.model.adapter import read_weights
from sfumato.model.bundle import Bundle, find_bundle, read_description, write_bundle
from sfumato.model.hub import writing
from sfumato.model.hub.dream import DREAM
from sfumato.model.hub.llada import LLADA
from sfumato.model.hub.sdar import SDAR
from sfumato.model.hub.writing import family_named, jinja, write_public
from sfumato.model.layout import layout_named
from sfumato.model.quantised import Quantised
from sfumato.model.weights import BundleError
from sfumato.text.tokenizer import Tokenizer

CHECKPOINTS = {"llada": (LLADA, public.LLADA), "dream": (DREAM, public.DREAM), "sdar": (SDAR, public.SDAR)}


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_through_our_bundle_and_back_into_a_familys_own_layout(tmp_path: Path, name: str, dtype: torch.dtype):
    family, content = CHECKPOINTS[name]
    theirs = public.write_checkpoint(tmp_path / "theirs", content, dtype=dtype)
    config, tokenizer_json, state = sfumato.model.hub.read(tmp_path / "theirs")
    write_bundle(tmp_path / "ours", config, state, tokenizer_json, "card")
    config, tokenizer_json = read_description(tmp_path / "ours")
    state, _ = read_weights(tmp_path / "ours", config.model)
    write_public(tmp_path / "back", config, state, tokenizer_json, "card", family=family)
    assert equal(load_file(tmp_path / "back" / "model.safetensors"), theirs)
    assert sfumato.model.hub.describe(tmp_path / "back") == sfumato.model.hub.describe(tmp_path / "theirs")
    written = json.loads((tmp_path / "back" / "config.json").read_text())
    assert {key: value for key, value in content.items() if written.get(key, value) != value} in (
        {},
        {"torch_dtype": "bfloat16"},  # it said so, whatever the precision
    )


@pytest.mark.parametrize("name", ["tiny", "tiny-ar", "tiny-chat"])
def test_our_models_through_the_layout_of_transformers_and_back(tmp_path: Path, name: str):
    folder = find_bundle(name)
    config, tokenizer_json = read_description(folder)
    state, _ = read_weights(folder, config.model)
    write_public(tmp_path / "hf", config, state, tokenizer_json, "# Card\n")
    again, json_again, state_again = sfumato.model.hub.read(tmp_path / "hf")
    assert (again, json_again) == (config, tokenizer_json) and equal(dict(state_again), dict(state))
    assert Bundle.load(tmp_path / "hf").card == "# Card\n"


def padded(tokens_BL: Tensor) -> Tensor:
    """The rows with three places of padding before them."""
    return torch.cat((torch.full((len(tokens_BL), 3), 2), tokens_BL), dim=1)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("masked", {}),
        ("masked", {"shift": 1}),
        ("masked", {"layout": "block"}),
        ("uniform", {}),
        ("autoregressive", {}),
    ],
)
def test_the_auto_classes_give_our_logits(tmp_path: Path, kind: str, changes: dict):
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

    tokenizer = Tokenizer.load(find_bundle("tiny"))
    bundle = bundles.make(tokenizer, kind)
    block = 4 if changes.get("layout") == "block" else 0
    config = replace(bundle.config, model=replace(bundle.config.model, block=block), **changes)
    write_public(tmp_path, config, bundle.denoiser.state_dict(), bundle.tokenizer_json, "")

    ids = torch.tensor([AutoTokenizer.from_pretrained(tmp_path)("Once upon a time there was")["input_ids"]])
    assert ids[0].tolist() == tokenizer.encode("Once upon a time there was")
    where, layout = whole(ids, block), layout_named(config.layout, block)
    with torch.inference_mode():
        hidden = bundle.denoiser.encode(ids, where=where, layout=layout)
        expected = bundle.denoiser.readout(hidden)
        if changes.get("shift"):
            expected = torch.cat((expected[:, :1], expected[:, :-1]), dim=1)
        auto = AutoModelForCausalLM if kind == "autoregressive" else AutoModelForMaskedLM
        network = auto.from_pretrained(tmp_path)
        assert torch.equal(network(ids).logits, expected)
        assert torch.equal(AutoModel.from_pretrained(tmp_path)(ids).last_hidden_state, hidden)
        mask = padded(torch.ones_like(ids)).where(padded(ids) != 2, 0)
        assert torch.allclose(network(padded(ids), attention_mask=mask).logits[:, 4:], expected[:, 1:], atol=1e-4)
        labels = ids.where(torch.arange(ids.shape[1]) != 2, -100)
        seen, asked = (expected[:, :-1], labels[:, 1:]) if kind == "autoregressive" else (expected, labels)
        losses = -seen.log_softmax(-1).gather(-1, asked.clamp(min=0)[..., None])[..., 0][asked >= 0]
        assert torch.allclose(network(ids, labels=labels).loss, losses.mean(), atol=1e-5)


def test_what_transformers_saves_is_a_model_of_ours(tmp_path: Path):
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    folder = find_bundle("tiny")
    config, tokenizer_json = read_description(folder)
    write_public(tmp_path / "hf", config, read_weights(folder, config.model)[0], tokenizer_json, "")
    network = AutoModelForMaskedLM.from_pretrained(tmp_path / "hf", dtype=torch.float32)
    with torch.no_grad():
        network.network.final_norm.mul_(2)
    network.save_pretrained(tmp_path / "tuned")
    AutoTokenizer.from_pretrained(tmp_path / "hf").save_pretrained(tmp_path / "tuned")
    bundle = Bundle.load(tmp_path / "tuned")
    assert torch.equal(bundle.denoiser.final_norm, network.network.final_norm)
    assert bundle.config.sampler == config.sampler


def test_large_weights_are_cut_into_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from transformers import AutoModelForMaskedLM

    monkeypatch.setattr(writing, "SHARD_BYTES", 4_000_000)
    folder = find_bundle("tiny")
    config, tokenizer_json = read_description(folder)
    state, _ = read_weights(folder, config.model)
    write_public(tmp_path, config, state, tokenizer_json, "", dtype=torch.float32)
    files = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors" and len(files) > 3
    network = AutoModelForMaskedLM.from_pretrained(tmp_path)
    assert torch.equal(network.network.embedding.weight, state["embedding.weight"].float())
    assert Bundle.load(tmp_path).denoiser.num_parameters() == sum(tensor.numel() for tensor in state.values())


def test_a_class_of_the_library_stays_one(tmp_path: Path):
    from transformers import AutoModelForMaskedLM

    foreign.save_tiny(tmp_path / "theirs", "bert")
    config, tokenizer_json, state = sfumato.model.hub.read(tmp_path / "theirs")
    config = replace(config, made={"steps": 3})
    write_public(tmp_path / "hf", config, state, tokenizer_json, "")
    again, _, state_again = sfumato.model.hub.read(tmp_path / "hf")
    assert again == config and equal(state_again, state)
    assert type(AutoModelForMaskedLM.from_pretrained(tmp_path / "hf")).__name__ == "BertForMaskedLM"
    with pytest.raises(BundleError, match="the library's bert, not a LLaDA model; use --to hf"):
        write_public(tmp_path / "no", config, state, tokenizer_json, "", family=LLADA)
    with pytest.raises(BundleError, match="the causal layout of this model is not what the library's bert class"):
        write_public(tmp_path / "no", replace(config, layout="causal"), state, tokenizer_json, "")
    assert not (tmp_path / "no").exists()


def test_what_no_auto_class_computes(tmp_path: Path):
    bundle = bundles.make(Tokenizer.load(find_bundle("tiny")))
    model = replace(bundle.config.model, time_conditioning=True)
    with pytest.raises(BundleError, match="give a network tokens and nothing else"):
        write_public(tmp_path / "no", replace(bundle.config, model=model), {}, "{}", "")
    assert not (tmp_path / "no").exists()


def test_quantised_matrices_stay_in_a_bundle(tmp_path: Path):
    bundle = bundles.make(Tokenizer.load(find_bundle("tiny")))
    config = replace(bundle.config, quantised=Quantised({"blocks.0.gate": "int8"}))
    with pytest.raises(BundleError, match="stored in bundles only; convert the model they came from"):
        write_public(tmp_path / "no", config, {}, "{}", "")


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, disk_full):
    public.write_checkpoint(tmp_path / "theirs", public.LLADA)
    config, tokenizer_json, state = sfumato.model.hub.read(tmp_path / "theirs")
    write_public(tmp_path / "out", config, state, tokenizer_json, "first", family=LLADA)
    with disk_full(20_000), pytest.raises(OSError, match="what was there before is intact"):
        write_public(tmp_path / "out", config, state, tokenizer_json, "second", family=LLADA)
    assert Bundle.load(tmp_path / "out").card == "first"
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_families_by_name():
    families = sfumato.model.hub.FAMILIES
    assert family_named("LLaDA", families) is family_named("llada", families) is LLADA
    with pytest.raises(BundleError, match="unknown family 'bert'; known are LLaDA"):
        family_named("bert", families)


CHAT = {
    "system": {"before": ["<|system|>"], "after": []},
    "user": {"before": ["<|user|>"], "after": ['\n"quoted"']},
    "assistant": {"before": ["<|assistant|>"], "after": ["<|end|>"]},
    "cue": ["<|assistant|>"],
    "default_system": "Be kind.",
}
TALK = [{"role": "user", "content": " hi "}, {"role": "assistant", "content": "yes"}, {"role": "user", "content": "?"}]


@pytest.mark.parametrize(
    ("changes", "messages", "expected"),
    [
        ({}, TALK[:1], '^<|system|>Be kind.<|user|> hi \n"quoted"<|assistant|>'),
        ({"strip": True, "opening": ["@"]}, TALK[:1], '^@<|system|>Be kind.<|user|>hi\n"quoted"<|assistant|>'),
        ({"default_system": ""}, TALK[:1], '^<|user|> hi \n"quoted"<|assistant|>'),
        ({"default_system": "", "always_system": True}, TALK[:1], '^<|system|><|user|> hi \n"quoted"<|assistant|>'),
        ({"system": None}, TALK[2:], '^<|user|>?\n"quoted"<|assistant|>'),
        (
            {},
            [{"role": "system", "content": "S"}, *TALK],
            '^<|system|>S<|user|> hi \n"quoted"<|assistant|>yes<|end|><|user|>?\n"quoted"<|assistant|>',
        ),
    ],
)
def test_chat_templates_as_the_library_writes_them(changes: dict, messages: list, expected: str):
    from jinja2 import Environment

    template = Environment().from_string(jinja(CHAT | changes, "^"))
    assert template.render(messages=messages, add_generation_prompt=True) == expected


@pytest.mark.parametrize("role", ["system", "tool"])
def test_a_chat_template_tells_of_roles_that_it_leaves_out(role: str):
    from jinja2 import Environment

    def refuse(message: str) -> None:
        raise ValueError(message)

    written = Environment().from_string(jinja(CHAT | {"system": None}, ""), {"raise_exception": refuse})
    talk = [{"role": "user", "content": "Hello"}]
    written.render(messages=talk)
    with pytest.raises(ValueError, match="this model knows the roles user, assistant only"):
        written.render(messages=[{"role": role, "content": "Be kind."}, *talk])


def test_our_chat_template_comes_along(tmp_path: Path):
    from transformers import AutoTokenizer

    from sfumato.text.chat import ChatTemplate

    folder = find_bundle("tiny-chat")
    config, tokenizer_json = read_description(folder)
    write_public(tmp_path, config, read_weights(folder, config.model)[0], tokenizer_json, "")
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    ids = theirs.apply_chat_template(TALK, add_generation_prompt=True, return_dict=False)
    ours = Tokenizer(tokenizer_json)
    assert config.chat is not None
    template = ChatTemplate.from_dict(config.chat)
    assert list(ids) == [config.tokens.start, *template.prompt(TALK, ours)]


def test_a_chat_template_is_read_again_from_a_familys_layout(tmp_path: Path):
    public.write_checkpoint(tmp_path / "theirs", public.LLADA)
    config, tokenizer_json, state = sfumato.model.hub.read(tmp_path / "theirs")
    names = {"before": ["<|begin|>", "user\n"], "after": ["<|endoftext|>", "\n"]}
    chat = {
        "system": {"before": ["<|begin|>", "system\n"], "after": ["<|endoftext|>", "\n"]},
        "user": names,
        "assistant": {"before": ["<|begin|>", "assistant\n"], "after": ["<|endoftext|>", "\n"]},
        "cue": ["<|begin|>", "assistant\n"],
        "default_system": "Be kind.",
        "always_system": False,
        "opening": [],
        "strip": True,
    }
    write_public(tmp_path / "out", replace(config, chat=chat), state, tokenizer_json, "", family=LLADA)
    assert sfumato.model.hub.describe(tmp_path / "out")[0].chat == chat
