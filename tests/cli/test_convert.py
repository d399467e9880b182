import json
from collections.abc import Callable
from pathlib import Path

import public
import pytest
from safetensors.torch import load_file, save_file

from sfumato.cli import main
from sfumato.model.bundle import find_bundle

Captured = pytest.CaptureFixture[str]


def convert(*words: object) -> int:
    return main(["convert", *map(str, words)])


def test_a_public_model_becomes_a_bundle_and_goes_back(tmp_path: Path, capsys: Captured):
    theirs = public.write_checkpoint(tmp_path / "llada", public.LLADA, shards=2)
    (tmp_path / "llada" / "README.md").write_text("# The card\n")
    assert convert(tmp_path / "llada", tmp_path / "bundle") == 0
    assert "34,208 parameters" in capsys.readouterr().out
    assert json.loads((tmp_path / "bundle" / "config.json").read_text())["format"].startswith("sfumato-bundle")
    assert (tmp_path / "bundle" / "README.md").read_text() == "# The card\n"
    assert convert(tmp_path / "bundle", tmp_path / "again", "--to", "llada", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["layout"], facts["parameters"], facts["model"]) == ("llada", 34208, str(tmp_path / "again"))
    state = load_file(tmp_path / "again" / "model.safetensors")
    assert state.keys() == theirs.keys() and all((state[name] == theirs[name]).all() for name in theirs)


def test_ours_for_transformers_and_back(tmp_path: Path, capsys: Captured):
    assert convert("tiny", tmp_path / "hf") == 0
    card = (tmp_path / "hf" / "README.md").read_text()
    assert "import sfumato.model.hub" in card and "AutoModelForMaskedLM" in card
    assert convert(tmp_path / "hf", tmp_path / "back") == 0
    ours, back = find_bundle("tiny"), tmp_path / "back"
    assert (back / "tokenizer.json").read_bytes() == (ours / "tokenizer.json").read_bytes()
    first, second = load_file(ours / "model.safetensors"), load_file(back / "model.safetensors")
    assert first.keys() == second.keys() and all((first[name] == second[name]).all() for name in first)
    written = json.loads((back / "config.json").read_text())
    assert {key: written[key] for key in ("process", "sampler", "made")} == {
        key: json.loads((ours / "config.json").read_text())[key] for key in ("sampler", "made")
    } | {"process": written["process"]}


def test_another_precision(tmp_path: Path):
    public.write_checkpoint(tmp_path / "dream", public.DREAM)
    assert convert(tmp_path / "dream", tmp_path / "out", "--dtype", "bfloat16", "--to", "dream") == 0
    dtypes = {str(tensor.dtype) for tensor in load_file(tmp_path / "out" / "model.safetensors").values()}
    assert dtypes == {"torch.bfloat16"}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == "bfloat16"


def test_numbers_that_a_precision_cannot_hold_are_not_lost(tmp_path: Path, refused: Callable[..., str]):
    public.write_checkpoint(tmp_path / "dream", public.DREAM)
    state = load_file(tmp_path / "dream" / "model.safetensors")
    state["lm_head.weight"][0, 0] = 1e5
    save_file(state, tmp_path / "dream" / "model.safetensors")
    message = refused("convert", tmp_path / "dream", tmp_path / "out", "--dtype", "float16")
    assert "tensor 'head.weight' holds numbers too large for float16; use --dtype bfloat16 or keep" in message
    assert not (tmp_path / "out").exists()
    assert convert(tmp_path / "dream", tmp_path / "out", "--dtype", "bfloat16") == 0


@pytest.mark.parametrize("there", [True, False])
def test_where_a_link_points_is_written_and_the_link_stays(tmp_path: Path, there: bool):
    public.write_checkpoint(tmp_path / "dream", public.DREAM)
    if there:
        (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    assert convert(tmp_path / "dream", tmp_path / "link") == 0
    assert (tmp_path / "link").is_symlink() and (tmp_path / "elsewhere" / "config.json").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dream", "elsewhere", "link"]


def test_info_says_why_there_is_no_conversation(tmp_path: Path, capsys: Captured):
    public.write_checkpoint(tmp_path, public.LLADA)
    assert main(["info", str(tmp_path), "--json"]) == 0
    assert "no_chat" not in json.loads(capsys.readouterr().out)
    public.write_tokenizer(tmp_path, chat="{{ raise_exception('no talk') }}")
    assert main(["info", str(tmp_path), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["chat"] is None and "it says: no talk" in facts["no_chat"]


def test_info_of_a_conversation_that_is_none(tmp_path: Path, refused: Callable[..., str]):
    public.write_checkpoint(tmp_path / "dream", public.DREAM)
    assert convert(tmp_path / "dream", tmp_path / "hf", "--to", "hf") == 0
    path = tmp_path / "hf" / "config.json"
    content = json.loads(path.read_text())
    content["sfumato"]["chat"] = {"user": 5}
    path.write_text(json.dumps(content))
    assert "config.json: chat: user: expected a table, got 5" in refused("info", tmp_path / "hf")


def test_mistakes_are_one_line(tmp_path: Path, refused: Callable[..., str]):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    assert "there: is there already; name a new folder" in refused("convert", "tiny", tmp_path / "there")
    assert "no such model" in refused("convert", tmp_path / "none", tmp_path / "out")
    message = refused("convert", "tiny", tmp_path / "out", "--to", "qwen3")
    assert "a Qwen3 model has" in message and "use --to hf" in message
    assert "--to" in refused("convert", "tiny", tmp_path / "out", "--to", "gguf")
    public.write_checkpoint(tmp_path / "llada", public.LLADA)
    (tmp_path / "llada" / "model.safetensors").write_bytes(b"12345")
    assert "truncated or damaged" in refused("convert", tmp_path / "llada", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_info_describes_a_public_model_by_its_headers(tmp_path: Path, capsys: Captured):
    public.write_checkpoint(tmp_path, public.LLADA)
    assert main(["info", str(tmp_path), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["family"], facts["parameters"], facts["dtype"]) == ("LLaDA", 34208, "F32")
    assert facts["memory"] == {"float32": 4 * 34208, "bfloat16": 2 * 34208}
    assert facts["special_tokens"]["mask"] == public.MASK and facts["sampler"]["sampler"] == "confidence"
    assert main(["info", str(tmp_path)]) == 0
    assert "LLaDA" in capsys.readouterr().out
