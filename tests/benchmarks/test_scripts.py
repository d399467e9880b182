"""Every benchmark runs, at a size that shows nothing but that it works."""

import importlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import sfumato
from sfumato.compress.fits import WAYS
from sfumato.model.bundle import Bundle, find_bundle

FOLDER = Path(__file__).parents[2] / "benchmarks"
CACHES = ("no cache", "prefix cache", "dual cache")
SMALL = "--threads 1 --width 16 --layers 1 --heads 2 --mlp-width 32"


def run(script: str, words: str | list[str], json_file: Path, size: str = SMALL) -> dict[str, Any]:
    words = words.split() if isinstance(words, str) else words
    done = subprocess.run(
        [sys.executable, FOLDER / script, *size.split(), *words, "--json", json_file],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(json_file.read_text("utf-8"))
    about = found["machine"]
    assert about["cpu"] and about["cores"] and about["torch"] and about["date"] and about["dtype"] == "float32"
    assert about["command"].startswith(script) and about["sfumato"] == sfumato.__version__
    return found


def positive(spread: dict[str, float]) -> bool:
    return 0 < spread["min"] <= spread["median"] <= spread["max"]


@pytest.mark.slow
def test_training_speed_reports_every_way_to_train_and_a_falling_loss(tmp_path: Path):
    words = "--vocab 263 --context 32 --batch 4 --steps 2 --rounds 2 --warmup 6 --product 64 --dtype float32"
    found = run("train_speed.py", words, tmp_path / "found.json")
    assert [row["name"] for row in found["rows"]] == [
        "masked, eager",
        "masked, eager, full logits",
        "autoregressive, eager",
    ]
    for row in found["rows"]:
        assert positive(row["tokens_per_second"]) and positive(row["ms_per_step"])
        assert positive(row["fraction_of_product"]) and positive(row["ratio"])
        assert 0 < row["optimiser_share"] < 1
        assert row["nats_after"] < row["nats_before"]
    # 1 layer of 16 x 16 and 3 x 16 x 32, gains: 2 x 16, 2 x 8 in the layer and 16 at the end; half the logits
    blocks = 4 * 16 * 16 + 3 * 16 * 32 + 2 * 16 + 2 * 8 + 16
    assert found["block_parameters"] == blocks
    assert found["rows"][0]["flop_per_token"] == 6 * blocks + 6 * 263 * 16 * 0.5 + 12 * 32 * 16
    assert found["products"].keys() == {"float32", "bfloat16"} and "FLOP/token" in found["formula"]
    assert positive(found["ceiling_flops"])


SPEED = "--vocab 64 --prompt 8 --new 16 --steps 8 --block 8 --rounds 2 --dtype float32"


@pytest.mark.slow
def test_generation_speed_counts_forwards_and_every_cache_writes_what_it_must(tmp_path: Path):
    found = run("generate_speed.py", f"{SPEED} --batch 1 3", tmp_path / "found.json")
    assert [table["batch"] for table in found["tables"]] == [1, 3]
    for table in found["tables"]:
        rows = {row["name"]: row for row in table["rows"]}
        for row in rows.values():
            assert positive(row["tokens_per_second"]) and positive(row["ms_per_forward"])
            assert row["ratios"].keys() >= {"LLaDA's loop", "AR twin"} and all(map(positive, row["ratios"].values()))
            assert 0 <= row["outside"] < 1 and row["compile_seconds"] is None
            assert not row["exactly"] or row["same_tokens"] == 1
            one_by_one = "AR twin" in row["name"] or "Llama" in row["name"]  # that of transformers, where it is there
            assert row["nfe"] == (16 if one_by_one else 8)
            assert row["tpf"] == 16 / row["nfe"]
        positions = {name: row["positions_per_token"] for name, row in rows.items()}
        assert positions["ours, confidence"] == positions["ours, 8 at a time, no cache"] == 8 * 24 / 16
        # of 2 blocks: all 24 places once, and in the other 3 steps what is right of the block's begin, or the block
        assert positions["ours, 8 at a time, prefix cache"] == (2 * 24 + 3 * (16 + 8)) / 16
        assert positions["ours, 8 at a time, dual cache"] == (2 * 24 + 6 * 8) / 16
        assert positions["ours, block layout, no cache"] == 4 * (16 + 24) / 16
        # the first step of a block runs the block before it, clean, once more
        assert positions["ours, block layout, exact cache"] == 2 * (16 + 3 * 8) / 16
        assert positions["ours, AR twin, exact cache"] == round((8 + 15) / 16, 2)
        assert rows["ours, 8 at a time, dual cache"]["like"] == "ours, 8 at a time, no cache"
        assert 0 < rows["ours, 8 at a time, dual cache"]["same_tokens"] <= 1
    assert any("--peer" in note for note in found["notes"]) and any("--fast-dllm" in note for note in found["notes"])


@pytest.mark.slow
def test_the_contestants_to_be_compiled_write_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")  # the compiled shapes, run eagerly: compiling takes minutes
    found = run("generate_speed.py", f"{SPEED} --compile", tmp_path / "found.json")
    compiled = {row["name"]: row for row in found["tables"][0]["rows"] if row["compile_seconds"] is not None}
    names = ("ours, block layout, exact cache, compiled", "ours, AR twin, exact cache, compiled")
    for row in (compiled[name] for name in names):
        assert row["exactly"] and row["same_tokens"] == 1 and positive(row["ratios"]["AR twin, compiled"])
    assert compiled[names[0]]["positions_per_token"] == 2 * (16 + 3 * 8) / 16


@pytest.mark.slow
def test_beside_the_public_programs_ours_write_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TORCHDYNAMO_DISABLE", "1")
    words = "--vocab 263 --prompt 32 --new 64 --steps 8 --block 32 --rounds 1 --dtype float32 --compile --cpu-seconds"
    found = run("peers.py", words, tmp_path / "found.json")
    tables = {table["title"]: {row["name"]: row for row in table["rows"]} for table in found["tables"]}
    full = tables["full layout"]
    compiled = [f"ours, {cache}, compiled" for cache in ("no cache", "dual cache")]
    assert sorted(full) == sorted([*(f"ours, {cache}" for cache in CACHES), *compiled])
    assert [full[f"ours, {cache}"]["positions_per_token"] for cache in CACHES] == [
        8 * 96 / 64,
        (2 * 96 + 3 * (64 + 32)) / 64,
        (2 * 96 + 6 * 32) / 64,
    ]
    for name, rows in tables.items():
        for row in rows.values():
            assert positive(row["tokens_per_second"]) and row["nfe"] == (64 if name == "one token a step" else 8)
            assert not row["exactly"] or row["same_tokens"] == 1
    for flag in ("--llada", "--fast-dllm", "--dllm"):
        assert any(note.startswith(f"no {flag}: ") for note in found["notes"])
    assert found["notes"][0].startswith("seconds are those that the process had a processor")


@pytest.mark.slow
def test_where_llada_and_a_pipeline_are_there_their_rows_are_too(tmp_path: Path):
    (tmp_path / "generate.py").write_text(
        "from programs import full_canvas_loop\n"
        "def generate(model, prompt, steps, gen_length, block_length, mask_id):\n"
        "    return full_canvas_loop(model, prompt, steps=steps, gen_length=gen_length, mask_id=mask_id)\n"
    )
    words = f"--vocab 263 --prompt 8 --new 8 --steps 4 --block 8 --rounds 1 --only full --llada {tmp_path}"
    (table,) = run("peers.py", f"{words} --dtype float32", tmp_path / "found.json")["tables"]
    rows = {row["name"]: row for row in table["rows"]}
    assert list(rows)[0] == "LLaDA generate.py, our network" and positive(rows["ours, no cache"]["ratios"]["LLaDA"])
    assert rows["ours, no cache"]["like"] == "LLaDA generate.py, our network"
    assert rows["ours, no cache"]["same_tokens"] == 1


def test_blocks_that_no_contestant_could_share_are_one_line():
    words = f"{SMALL} --prompt 8 --new 16 --steps 8 --block 6"
    done = subprocess.run(
        [sys.executable, FOLDER / "generate_speed.py", *words.split()], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 2 and "--block must cut --new" in done.stderr.splitlines()[-1]


@pytest.fixture
def block_model(tmp_path: Path) -> Path:
    """The bundled model, with smaller blocks."""
    bundle = Bundle.load(find_bundle("tiny"))
    model = replace(bundle.config.model, block=8)
    replace(bundle, config=replace(bundle.config, model=model, sampler={"block": 8})).save(tmp_path / "block")
    return tmp_path / "block"


@pytest.mark.slow
def test_speed_at_equal_quality_rates_every_setting(tmp_path: Path, block_model: Path):
    data = tmp_path / "text.jsonl"
    data.write_text(
        "".join(json.dumps({"text": f"Once there were {i} cats. They sat on it. " * 4}) + "\n" for i in range(4))
    )
    words = f"{block_model} tiny-ar --judge tiny-ar --data {data} --texts 4 --prompt-tokens 8 --max-tokens 16 --batch 2"
    words += " --thresholds 0.5 --entropy-bounds 0.3 --steps 4 --temperatures 0 1 2 --tolerance 100 --dtype float32"
    found = run("equal_quality.py", f"{words} --threads 1", tmp_path / "found.json", size="")
    names = [row["name"] for row in found["rows"]]
    assert {"threshold 0.5, temperature 1", "confidence, 4 steps, temperature 1"} <= set(names)
    assert [point["settings"]["temperature"] for point in found["twin"]] == [0, 1, 2]
    for row in [*found["rows"], *found["twin"]]:
        assert 0 < row["slowest"] <= row["fastest"] and row["nats"] > 0 and row["entropy"] >= 0
        assert row["tpf"] * row["nfe"] * found["texts"] == pytest.approx(row["tokens"])
    for row in found["rows"]:
        assert (row["ratio"] is None) == (row["twin"] is None)  # whatever has a match is within that tolerance
    assert any("judge is the twin" in note for note in found["notes"])
    assert any(word in found["verdict"] for word in ("at equal quality", "nothing can be compared"))


@pytest.fixture
def equal_quality(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("equal_quality")


def test_the_twin_at_equal_entropy_lies_between_its_temperatures(equal_quality: ModuleType):
    def point(entropy: float, nats: float, rate: float = 10.0) -> Any:
        return equal_quality.Point("", {}, rate, rate, rate, 8, 2, 3, 16, nats, 0.03, entropy)

    curve = [(0.5, point(2.0, 1.0, 10)), (1.0, point(4.0, 3.0, 20)), (1.5, point(3.0, 5.0, 30))]
    match = equal_quality.at_entropy(2.5, curve)
    assert (match.temperature, match.nats, match.tokens_per_second) == (0.625, 1.5, 12.5)
    assert match.stderr == pytest.approx(0.03 * (0.75**2 + 0.25**2) ** 0.5)
    assert equal_quality.at_entropy(3.5, curve).nats == 2.5  # of two, where the texts are more probable
    assert equal_quality.at_entropy(1.9, curve) is None and equal_quality.at_entropy(4.1, curve) is None

    settings = [point(2.5, 1.54, 50), point(2.5, 1.4, 40), point(2.5, 1.6, 45), point(5.0, 1.0, 99)]
    rows = [equal_quality.row_of(one, curve, 0.05) for one in settings]
    equal_quality.mark_frontier(rows)
    assert [row["ratio"] for row in rows] == [4.0, 3.2, None, None]
    assert [row["frontier"] for row in rows] == [True, True, False, False]
    assert "4.00 x the speed" in equal_quality.conclusion(rows, 0.05)
    assert "no setting reaches" in equal_quality.conclusion(rows[2:], 0.05)
    assert "nothing can be compared" in equal_quality.conclusion(rows[3:], 0.05)


@pytest.mark.slow
def test_optimisers_are_measured_on_held_out_text_at_equal_tokens(tmp_path: Path):
    data = tmp_path / "text.jsonl"
    data.write_text("".join(json.dumps({"text": f"The {i}. cat sat on the mat. " * 4}) + "\n" for i in range(60)))
    words = f"--data {data} --vocab 300 --context 32 --batch 4 --tokens 512 --adamw 1e-3 --muon 1e-2 --beside 2e-3 4e-3"
    found = run("optimisers.py", f"{words} --dtype float32", tmp_path / "found.json")
    tried = [(row["optimiser"], row["matrix_lr"], row["lr"]) for row in found["rows"]]
    assert tried == [("adamw", 1e-3, 1e-3), ("muon", 1e-2, 2e-3), ("muon", 1e-2, 4e-3)]
    for row in found["rows"]:
        assert row["kind"] == "bound" and row["tokens"] == 512 and row["seconds"] > 0
        assert 0 < row["nats_per_token"] < 7 and row["bits_per_byte"] > 0 and row["stderr"] > 0
    assert found["best"].keys() == {"adamw", "muon"}


def test_a_peer_that_is_not_there_is_one_line():
    words = [sys.executable, FOLDER / "train_speed.py", "--peer", "nowhere.py"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=240)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith("argument --peer: no such file: nowhere.py")


@pytest.mark.slow
def test_control_counts_all_forwards_and_finds_every_keyword(tmp_path: Path):
    (tmp_path / "concepts.jsonl").write_text('{"concepts": ["dog", "ball"]}\n{"concepts": ["red", "house"]}\n')
    words = ["--texts", "2", "--tokens", "12", "--of", "2", "--threads", "1", "--dtype", "float32"]
    files = ["--concepts", tmp_path / "concepts.jsonl", "--json", tmp_path / "found.json"]
    done = subprocess.run([sys.executable, FOLDER / "control.py", *words, *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text("utf-8"))
    plain, guided, _, best, _ = (row["forwards"] for row in found["rows"])
    assert guided > plain and best > plain
    assert found["keywords"]["coverage"] == 1.0 and found["keywords"]["words"] == 4


@pytest.mark.slow
def test_whatever_structure_is_asked_for_the_server_is_right_or_refuses(tmp_path: Path):
    words = "--cases 20 --clients 4 --max-tokens 32 --steps 4 --threads 1 --dtype float32"
    found = run("fuzz_structured.py", words, tmp_path / "found.json", size="")
    rows = found["rows"]
    assert {kind: row["asked"] for kind, row in rows.items()} == {"schema": 8, "tool": 4, "regex": 6, "choice": 2}
    for row in rows.values():
        assert row["valid"] + row["refused"] + row["cut"] == row["asked"]
        assert 0 < row["p50"] <= row["p95"] <= row["p100"]
    assert sum(found["refused"].values()) == sum(row["refused"] for row in rows.values()) and not found["wrong"]


@pytest.fixture
def fuzz_structured(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("fuzz_structured")


def test_wrong_answers_are_noticed(fuzz_structured: ModuleType):
    def outcome(kind: str, wanted: Any, text: str, finish: str = "stop") -> str:
        case = fuzz_structured.Case(0, kind, wanted, 0.0)
        reply = {"choices": [{"finish_reason": finish, "text": text}]}
        return fuzz_structured.verdict(case, {"status": 200, "reply": reply})[0]

    assert outcome("regex", "a+", "aa") == "valid" and outcome("regex", "a+", "ab") == "wrong"
    assert outcome("regex", "a+b", "aa", "length") == "cut" and outcome("regex", "a+b", "ac", "length") == "wrong"
    assert outcome("choice", ["yes"], "yes") == "valid" and outcome("choice", ["yes"], "no") == "wrong"
    assert outcome("choice", ["yes"], "ye", "length") == "cut" and outcome("choice", ["yes"], "no", "length") == "wrong"
    tenths = {"type": "number", "multipleOf": 0.1}
    assert outcome("schema", tenths, "0.3") == "valid" and outcome("schema", tenths, "0.25") == "wrong"
    assert outcome("schema", {"type": "object"}, '{"a":', "length") == "cut"
    assert outcome("schema", {"type": "object"}, '{"a"') == outcome("schema", {}, "", "cancelled") == "wrong"
    assert outcome("schema", {"$ref": "http://127.0.0.1:9/x"}, "1") == outcome("tool", {"f": None}, "{}") == "wrong"
    assert outcome("regex", "(a+)+b", "a" * 40) == "wrong"  # the check takes for ever, but not here

    def refused(**fields: Any) -> str:
        error = {"message": "regex: no", "type": "invalid_request_error", "param": "regex", "code": None} | fields
        return fuzz_structured.verdict(None, {"status": 400, "reply": {"error": error}})[0]

    assert refused() == "refused" and refused(param=None) == refused(message="a\nb") == refused(type="x") == "wrong"
    assert fuzz_structured.verdict(None, {"status": "ReadTimeout", "reply": None})[0] == "errors"
    assert fuzz_structured.verdict(None, {"status": 500, "reply": {}})[0] == "errors"


@pytest.fixture
def controller(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("controller")


def test_simulated_users_get_more_of_what_they_want_than_from_any_fixed_settings(controller: ModuleType):
    found = controller.compare(2, 1600, rate=0.5, delay=20, utility=controller.Utility())
    mean, _ = found["controller"]
    assert all(mean > fixed + 0.03 for fixed in found["fixed"].values()) and mean < found["best_possible"]
    regret = [mean for mean, _ in found["regret_by_eighth"]]
    assert regret[3] < 0.6 * regret[0]  # it learns
    assert regret[7] < 0.5 * regret[4]  # and again, when users want something else
    assert found["presets_used"] == sorted(controller.PRESETS)
    ends = found["best_preset_chosen"]
    assert ends["structured, before"]["best"] == "careful" and ends["structured, after"]["best"] == "fast"
    assert ends["chat, after"]["chosen"][0] > 0.75 and ends["structured, after"]["chosen"][0] > 0.6


@pytest.mark.slow
def test_a_teacher_and_its_students_are_rated_alike(tmp_path: Path):
    held_out = FOLDER.parent / "recipes" / "data" / "heldout.jsonl"
    words = f"tiny tiny --data {held_out} --texts 3 --tokens 8 --steps 2 4 --seeds 2 --dtype float32 --threads 1"
    found = run("distill.py", f"{words} --picture {tmp_path / 'found.svg'}", tmp_path / "found.json", size="")
    rows = found["rows"]
    assert [(row["model"], row["steps"]) for row in rows] == [("tiny", n) for n in (2, 4, 2, 4)]
    assert all(0 < row["nfe"] <= row["steps"] for row in rows)
    assert rows[:2] == rows[2:] and (tmp_path / "found.svg").exists()
    for row in rows:
        assert 0 < row["divergence"]["value"] < 0.7 and row["bits_per_byte"]["value"] > 0
    assert found["real"].keys() == {"bits_per_byte", "entropy"}


@pytest.mark.slow
def test_adaptation_is_followed_from_the_first_token_on(tmp_path: Path):
    words = "--train.steps 2 --train.tokens 0 --train.batch 2 --train.evaluate_every 1 --model.context 32"
    only = ["--only", "adapted, shift kept", "from scratch"]
    done = subprocess.run(
        [sys.executable, FOLDER / "adaptation.py", "--out", tmp_path, *words.split(), *only],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads((tmp_path / "adaptation.json").read_text("utf-8"))["rows"]}
    assert len(rows) == 2 and all(row["tokens"] == [64, 128] for row in rows.values())
    assert (tmp_path / "adaptation.svg").exists()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc, which tells what memory is whose")
def test_loading_a_public_model_takes_no_memory_but_its_own(tmp_path: Path):
    words = "--layers 2 --width 512 --device cpu --dtype float32 --threads 1"
    found = run("hub_memory.py", words, tmp_path / "found.json", size="")
    mapped, converted = found["rows"]
    assert found["file_bytes"] == pytest.approx(2 * mapped["parameters"], rel=0.01)
    assert mapped["RssAnon"] < found["file_bytes"] / 4 and mapped["RssFile"] > 0.9 * found["file_bytes"]
    assert converted["RssAnon"] == pytest.approx(2 * found["file_bytes"], rel=0.2)


@pytest.mark.slow
def test_what_public_models_leave_to_their_heirs(tmp_path: Path):
    pytest.importorskip("transformers", reason="needs transformers, which is not installed")
    words = "--tokens 256 --pretrain-tokens 256 --batch 2 --context 32 --width 16 --layers 1 --heads 2 --kinds qwen2"
    done = subprocess.run(
        [sys.executable, FOLDER / "adapt_hub.py", "--out", tmp_path, *words.split()],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads((tmp_path / "adapt_hub.json").read_text("utf-8"))["rows"]}
    assert rows.keys() == {"pretraining", "adapted", "scratch"}
    assert all(row["tokens"][-1] == 256 for row in rows.values())


@pytest.mark.slow
def test_memory_needs_what_the_formulas_say_and_less_with_less(tmp_path: Path):
    words = ["--only", "AdamW 8-bit,"]
    size = "--dtype float32 --threads 1 --vocab 2048 --width 256 --layers 6 --heads 4 --mlp-width 704"
    found = run("memory.py", words, tmp_path / "found.json", size)
    assert [row["name"] for row in found["runs"]] == [name for name in WAYS if "AdamW 8-bit," in name]
    for row in found["runs"]:  # so small a network is hardly more than what the interpreter happens to do
        assert 0.3 < row["ratio"] < 3
    assert [len(row["models"]) for row in found["fits"]] == [4] * len(WAYS)
    assert found["fits"][0]["models"]["0.5B"]["card"] == 8


@pytest.mark.slow
def test_compression_is_shown_beside_the_original(tmp_path: Path):
    data = FOLDER.parent / "recipes" / "data" / "gaps-held.jsonl"
    words = f"--data {data} --held-out 2 --texts 1 --only int8 --calibration 0"
    found = run("compress.py", f"--threads 1 {words}", tmp_path / "found.json", size="--dtype float32")
    (row,) = found["ways"]
    assert row["compressed"]["disk_bytes"] < 0.6 * row["original"]["disk_bytes"]
    assert {"float32", "ours, int8", "ours, dynamic", "ours, int4"} <= found["products"].keys()
    assert all(positive(ms) for part in found["products"].values() for ms in part.values())
