"""Folders as they are published: shards, precisions, tokenizer files, and one line for each thing that can be wrong."""

import json
from pathlib import Path

import public
import pytest
import torch
from public_logits import whole
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from sfumato.model.bundle import Bundle, find_bundle
from sfumato.model.hub.reading import describe, read
from sfumato.model.layout import layout_named
from sfumato.model.weights import BundleError

QWEN = {"model_type": "qwen2", **{name: value for name, value in public.DREAM.items() if name != "model_type"}}


@pytest.fixture
def llada(tmp_path: Path) -> Path:
    public.write_checkpoint(tmp_path, public.LLADA, shards=3)
    return tmp_path


def refused(folder: Path, message: str) -> None:
    with pytest.raises(BundleError) as error:
        Bundle.load(folder)
    assert message in str(error.value) and "\n" not in str(error.value), str(error.value)


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# --- weights


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_all_tensors_come_along_bit_equal_from_any_number_of_files(tmp_path: Path, shards: int, dtype: torch.dtype):
    theirs = public.write_checkpoint(tmp_path, public.LLADA, shards=shards, dtype=dtype)
    _, _, state = read(tmp_path)
    assert len(state) == len(theirs)
    assert torch.equal(state["head.weight"], theirs["model.transformer.ff_out.weight"])
    assert torch.equal(state["blocks.1.down.weight"], theirs["model.transformer.blocks.1.ff_out.weight"])
    assert {tensor.dtype for tensor in state.values()} == {dtype}


def mapped_files(pointer: int) -> str:
    """The file that an address of this process is mapped from; empty for ordinary memory."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        ends, *rest = line.split(maxsplit=5)
        begin, end = (int(part, 16) for part in ends.split("-"))
        if begin <= pointer < end:
            return rest[-1] if len(rest) == 5 and rest[-1].startswith("/") else ""
    return ""


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc, which tells what memory is mapped")
def test_weights_in_the_right_precision_are_the_file_itself(llada: Path):
    parameters = dict(Bundle.load(llada).denoiser.named_parameters())
    assert {Path(mapped_files(p.data_ptr())).name for p in parameters.values()} == {
        path.name for path in llada.glob("*.safetensors")
    }
    assert {mapped_files(p.data_ptr()) for p in Bundle.load(llada, dtype=torch.bfloat16).denoiser.parameters()} == {""}


def test_training_does_not_write_to_the_file(llada: Path):
    before = {path.name: path.read_bytes() for path in llada.glob("*.safetensors")}
    network = Bundle.load(llada).denoiser
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1.0)
    assert {path.name: path.read_bytes() for path in llada.glob("*.safetensors")} == before


def test_a_truncated_shard(llada: Path):
    shard = llada / "model-00002-of-00003.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])
    refused(llada, "model-00002-of-00003.safetensors: truncated or damaged weights")


@pytest.mark.parametrize("index", [True, False])
def test_a_missing_shard(llada: Path, index: bool):
    (llada / "model-00002-of-00003.safetensors").unlink()
    if not index:
        (llada / "model.safetensors.index.json").unlink()
    refused(llada, "model-00002-of-00003.safetensors: this shard is missing")


def test_shards_need_no_index(llada: Path):
    (llada / "model.safetensors.index.json").unlink()
    Bundle.load(llada)


def test_an_index_that_says_otherwise(llada: Path):
    index = llada / "model.safetensors.index.json"
    listed = json.loads(index.read_text())["weight_map"]
    edit(index, weight_map=listed | {"model.transformer.wte.weight": "model-00001-of-00003.safetensors"})
    refused(llada, "says that 'model.transformer.wte.weight' is in model-00001-of-00003.safetensors, where it is not")
    edit(index, weight_map={"a": "../elsewhere.safetensors"})
    refused(llada, "names '../elsewhere.safetensors', which is not a file of this folder")
    index.write_text("{}")
    refused(llada, "not an index of shards")
    index.write_text("{")
    refused(llada, "not valid JSON")


def rewrite(folder: Path, **tensors: torch.Tensor | None) -> None:
    """Change some tensors of a checkpoint in one file; None removes one."""
    state = load_file(folder / "model.safetensors") | {name: t for name, t in tensors.items() if t is not None}
    save_file({name: t for name, t in state.items() if tensors.get(name, t) is not None}, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("model.transformer.ln_f.weight", None, "'model.transformer.ln_f.weight' is missing from the weights"),
        ("model.transformer.bias", torch.ones(3), "unexpected tensor 'model.transformer.bias'"),
        ("model.transformer.ln_f.weight", torch.ones(31), "has shape [31], config.json asks for [32]"),
        ("model.transformer.ln_f.weight", torch.ones(32, dtype=torch.int8), "is I8, expected F64, F32, F16, BF16"),
        ("model.transformer.ln_f.weight", torch.full((32,), torch.nan), "holds NaN or infinity"),
    ],
)
def test_a_tensor_that_does_not_fit(tmp_path: Path, name: str, tensor: torch.Tensor | None, message: str):
    public.write_checkpoint(tmp_path, public.LLADA)
    rewrite(tmp_path, **{name: tensor})
    refused(tmp_path, message)


def test_of_one_file_and_shards_the_one_file_counts_as_in_the_library(llada: Path):
    theirs = public.write_checkpoint(llada, public.LLADA, seed=1)
    assert (llada / "model.safetensors.index.json").is_file()
    state = read(llada)[2]
    assert torch.equal(state["head.weight"], theirs["model.transformer.ff_out.weight"])


def test_a_tensor_in_two_files(tmp_path: Path):
    public.write_checkpoint(tmp_path, public.LLADA)
    (tmp_path / "model-2.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes())
    refused(tmp_path, "is in model-2.safetensors too; remove one file")


def test_the_config_of_another_family(tmp_path: Path):
    public.write_checkpoint(tmp_path, public.LLADA)
    (tmp_path / "config.json").write_text(json.dumps(public.DREAM))
    refused(tmp_path, "the names of the others are those of LLaDA; take the config.json of this model")
    public.write_checkpoint(tmp_path, public.SDAR)
    (tmp_path / "config.json").write_text(json.dumps(public.DREAM | {"head_dim": 16}))
    refused(tmp_path, "'model.layers.0.self_attn.q_proj.bias' is missing from the weights")


def test_pickle_files_are_not_opened(tmp_path: Path):
    public.write_checkpoint(tmp_path, public.LLADA)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    refused(tmp_path, "only pickle files (pytorch_model.bin), which can run code and are not read")
    (tmp_path / "pytorch_model.bin").unlink()
    refused(tmp_path, "no weights: expected model.safetensors")


def test_a_tied_head_may_be_stored_if_it_is_the_same(tmp_path: Path):
    content = QWEN | {"tie_word_embeddings": True}
    state = public.write_checkpoint(tmp_path, public.DREAM)
    (tmp_path / "config.json").write_text(json.dumps(content))
    refused(tmp_path, "ties 'lm_head.weight' to 'model.embed_tokens.weight', but their weights differ")
    rewrite(tmp_path, **{"lm_head.weight": state["model.embed_tokens.weight"].clone()})
    assert Bundle.load(tmp_path).denoiser.head is None
    rewrite(tmp_path, **{"lm_head.weight": None, "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)})
    assert Bundle.load(tmp_path).config.model.tied


# --- configuration and tokenizer


@pytest.mark.parametrize("key", ["logits_scaling", "num_experts"])
def test_a_key_that_no_code_of_the_family_has_is_refused(tmp_path: Path, key: str):
    pytest.importorskip("transformers", reason="needs transformers, which is not installed")
    public.write_checkpoint(tmp_path, QWEN | {"mask_token_id": None})
    edit(tmp_path / "config.json", **{key: 8})
    refused(tmp_path, f"unknown key {key} = 8; it may change what the network computes")


def test_settings_of_generation_say_nothing_about_the_network(tmp_path: Path):
    public.write_checkpoint(tmp_path, QWEN)
    edit(tmp_path / "config.json", max_length=4096, temperature=0.6, do_sample=True)
    assert describe(tmp_path)[0].foreign is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"model_type": "mamba"}', "unknown model_type 'mamba'; known are llada, Dream"),
        ('{"model_type": "llada", "d_model": 32}', "n_heads is missing; restore the model's own config.json"),
        ('{"model_type": ["llada"]}', "model_type: expected a word, got ['llada']"),
    ],
)
def test_a_config_that_is_not_enough(llada: Path, text: str, message: str):
    (llada / "config.json").write_text(text)
    refused(llada, message)


def test_a_model_that_is_not_plain_is_computed_by_the_librarys_class(tmp_path: Path):
    from transformers import LlamaConfig, LlamaForCausalLM

    scaled = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "original_max_position_embeddings": 8}
    rope = scaled | {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    sizes = {"vocab_size": 260, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
    network = LlamaForCausalLM(LlamaConfig(**sizes, **heads, rope_parameters=rope, eos_token_id=public.END)).eval()
    network.save_pretrained(tmp_path)
    public.write_tokenizer(tmp_path)
    bundle = Bundle.load(tmp_path)
    assert bundle.config.foreign is not None and bundle.config.made["family"] == "LlamaForCausalLM"
    tokens_BL = torch.arange(40)[None]
    with torch.inference_mode():
        hidden = bundle.denoiser.encode(tokens_BL, where=whole(tokens_BL), layout=layout_named("causal"))
        found, expected = bundle.denoiser.readout(hidden), network(tokens_BL).logits
        assert torch.allclose(found[..., :259], expected[..., :259], atol=1e-5)  # 259 is the mask, never written


@pytest.mark.parametrize("change", [{"n_layers": 10**9}, {"embedding_size": 10**12, "vocab_size": 10**12}])
def test_a_network_of_a_nonsensical_size_is_not_built(llada: Path, change: dict):
    edit(llada / "config.json", **change)
    refused(
        llada, "is missing from the weights" if "n_layers" in change else "config.json asks for [1000000000000, 32]"
    )


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("added_tokens.json", {"a": "x"}, "added_tokens.json: expected tokens with their content by id, got 'x'"),
        ("tokenizer_config.json", {"added_tokens_decoder": [1]}, "added_tokens_decoder: expected tokens with their"),
        ("tokenizer_config.json", {"added_tokens_decoder": {"259": 3}}, "by id, got '259': 3"),
        (
            "tokenizer_config.json",
            {"added_tokens_decoder": {"259": {"content": "a", "lstrip": "no"}}},
            "token 259: lstrip: expected true or false, got 'no'",
        ),
        ("model.safetensors.index.json", "[" * 100_000, "not valid JSON"),
    ],
)
def test_broken_files_beside_the_weights(llada: Path, file: str, content: object, message: str):
    (llada / file).write_text(content if isinstance(content, str) else json.dumps(content))
    refused(llada, message)


def test_a_tokenizer_in_another_encoding(llada: Path):
    (llada / "tokenizer.json").write_bytes(b"\xff\xfe")
    refused(llada, "tokenizer.json: not a tokenizer: 'utf-8' codec")


@pytest.mark.parametrize("pad", ["<pad>", [1], -1])
def test_a_padding_that_is_no_id(tmp_path: Path, pad: object):
    public.write_checkpoint(tmp_path, QWEN | {"pad_token_id": pad})
    refused(tmp_path, f"the id of pad is {pad!r}, the network embeds")


def test_no_tokenizer(llada: Path):
    (llada / "tokenizer.json").write_text("{}")
    refused(llada, "tokenizer.json: not a tokenizer")
    (llada / "tokenizer.json").unlink()
    refused(llada, "no tokenizer.json; write one with transformers")


def test_a_tokenizer_of_another_model(tmp_path: Path):
    small = public.LLADA | {"vocab_size": 256, "embedding_size": 256}
    public.write_checkpoint(tmp_path, small)
    refused(tmp_path, "the tokenizer has ids up to 258, the network embeds 256; they do not belong together")


def test_ids_that_have_no_embedding(llada: Path):
    edit(llada / "config.json", mask_token_id=400)
    refused(llada, "the id of mask is 400, the network embeds 260 tokens")


def test_a_text_has_an_end(llada: Path):
    edit(llada / "config.json", eos_token_id=None)
    (llada / "tokenizer_config.json").write_text("{}")
    refused(llada, "neither config.json nor the tokenizer says which token ends a text")


def test_of_several_ends_the_tokenizers_own(llada: Path):
    (llada / "generation_config.json").write_text(json.dumps({"eos_token_id": [public.START, public.END]}))
    assert describe(llada)[0].tokens.end == public.END
    (llada / "generation_config.json").write_text(json.dumps({"eos_token_id": [public.START, public.MASK]}))
    assert describe(llada)[0].tokens.end == public.START


def test_what_opens_a_text(llada: Path):
    assert describe(llada)[0].tokens.start is None
    public.write_tokenizer(llada, start=True)
    assert describe(llada)[0].tokens.start == public.START
    edit(llada / "tokenizer_config.json", add_bos_token=False, bos_token="<|begin|>")
    assert describe(llada)[0].tokens.start is None
    public.write_tokenizer(llada)
    edit(llada / "tokenizer_config.json", add_bos_token=True, bos_token={"content": "<|begin|>"})
    assert describe(llada)[0].tokens.start == public.START


def test_a_causal_model_gets_a_mask_that_no_text_has(tmp_path: Path):
    public.write_checkpoint(tmp_path, public.DREAM)
    (tmp_path / "config.json").write_text(json.dumps(QWEN))
    assert describe(tmp_path)[0].tokens.mask == 259  # the first that the tokenizer lacks
    state = load_file(tmp_path / "model.safetensors")
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        state[name] = state[name][:259].clone()
    save_file(state, tmp_path / "model.safetensors")
    edit(tmp_path / "config.json", vocab_size=259)
    assert describe(tmp_path)[0].tokens.mask == public.MASK  # by its name, <|mask|>


def test_a_row_that_pads_is_not_free_for_the_mask(tmp_path: Path):
    public.write_checkpoint(tmp_path, QWEN | {"pad_token_id": public.VOCABULARY - 1, "mask_token_id": None})
    tokens = describe(tmp_path)[0].tokens
    assert tokens.pad == public.VOCABULARY - 1 and tokens.mask != tokens.pad


def test_dreams_tokenizer_is_made_from_its_vocabulary_and_merges(tmp_path: Path):
    public.write_checkpoint(tmp_path, public.DREAM)
    (tmp_path / "tokenizer.json").unlink()
    pieces = [*public.LETTERS, "he", "hel"]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "merges.txt").write_text("#version: 0.2\nh e\nhe l\n")
    added = {"258": {"content": "<|endoftext|>", "special": True}, "259": {"content": "<|mask|>", "special": True}}
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"eos_token": "<|endoftext|>", "added_tokens_decoder": added})
    )
    edit(tmp_path / "config.json", mask_token_id=259, eos_token_id=258, pad_token_id=258)
    config, tokenizer_json = describe(tmp_path)
    backend = Tokenizer.from_str(tokenizer_json)
    text = "hello, h\u0065\u0301 12 \n\n  héllo<|mask|>"
    ids = backend.encode(text).ids
    assert ids[:2] == [257, vocabulary["l"]] and ids[-1] == 259
    assert backend.decode(ids, skip_special_tokens=False) == text.replace("e\u0301", "é")  # NFC, as Dream does
    assert (config.tokens.mask, config.tokens.end) == (259, 258)
    added["260"] = {"content": "<|other|>"}
    del added["259"]
    edit(tmp_path / "tokenizer_config.json", added_tokens_decoder=added)
    refused(tmp_path, "token '<|other|>' belongs at id 260, but the vocabulary ends at 258")
    (tmp_path / "merges.txt").write_text("x yz\n")
    refused(tmp_path, "merges.txt: does not fit vocab.json")


# --- by name


def test_a_model_is_found_by_its_name_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    place = tmp_path / "models--someone--tiny"
    public.write_checkpoint(place / "snapshots" / ("a" * 40), public.LLADA)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("a" * 40)
    assert Bundle.load(find_bundle("hf:someone/tiny")).config.made["family"] == "LLaDA"
    assert find_bundle("hf:someone/tiny@" + "a" * 40) == find_bundle("hf:someone/tiny")
    for name, message in (
        ("hf:someone/else", "hf:someone/else: the hub cannot be reached, and the model is not in the cache"),
        ("hf:tiny", "expected hf:OWNER/NAME"),
        ("hf:some one/tiny", "cannot be fetched"),
    ):
        with pytest.raises(BundleError) as error:
            find_bundle(name)
        assert message in str(error.value) and "\n" not in str(error.value)
