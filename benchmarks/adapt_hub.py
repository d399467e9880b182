"""What a diffusion model inherits from a model of the transformers library: held-out bound against tokens read.

    python benchmarks/adapt_hub.py --out runs/adapt-hub

Makes two tiny folders as their makers lay them out, Qwen2 (which our network computes) and ModernBERT (which the
library's class computes), with one vocabulary; trains both in what they are for, on the TinyStories that come along;
writes them as folders of the library again; and adapts them from there, beside the same recipe from their random
beginnings. Trains what is not trained yet (a run that was stopped goes on), then reports: a table and JSON.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from bench import print_table
from fair_comparison import curve
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from sfumato.config import DataConfig, Source
from sfumato.data.sources import texts
from sfumato.evaluate.machine import this_machine

DATA = Path(__file__).parent.parent / "recipes" / "data" / "tinystories.jsonl.xz"
SPECIAL = ["<s>", "<pad>", "</s>", "<mask>"]
KINDS = ("qwen2", "modernbert")


def make_tokenizer(size: int) -> tokenizers.Tokenizer:
    """Byte-level BPE with special tokens; Qwen2 uses the last ones alone."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts(DataConfig((Source(str(DATA)),))), trainer)
    return tokenizer


def make_folder(folder: Path, kind: str, args: argparse.Namespace) -> None:
    """A model of the library with random weights."""
    tokenizer = make_tokenizer(args.vocab_size)
    sizes = {
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": args.width,
        "num_hidden_layers": args.layers,
        "num_attention_heads": args.heads,
        "intermediate_size": 3 * args.width,
        "max_position_embeddings": args.context + 2,
        "bos_token_id": 0,
        "pad_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": True,
        "initializer_range": args.width**-0.5,  # 0.02 is for networks that are wide and trained for long
    }
    torch.manual_seed(1)
    if kind == "qwen2":
        network = transformers.Qwen2ForCausalLM(
            transformers.Qwen2Config(num_key_value_heads=args.heads, layer_types=None, **sizes)
        )
        names = {"eos_token": "</s>", "pad_token": "<pad>"}
    else:
        ids = {"cls_token_id": 0, "sep_token_id": 2}
        network = transformers.ModernBertForMaskedLM(transformers.ModernBertConfig(**sizes, **ids))
        tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
        names = {"cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "pad_token": "<pad>"}
        names |= {"mask_token": "<mask>"}
    network.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(names))


def sfumato(*words: Any) -> None:
    """Run a command, quietly."""
    print("sfumato", *words, file=sys.stderr, flush=True)
    subprocess.run([sys.executable, "-m", "sfumato", *map(str, words)], stdout=subprocess.DEVNULL, check=True)


def recipe(path: Path, args: argparse.Namespace, tokens: int, **settings: str) -> Path:
    """A recipe file; `settings` are lines of its first table."""
    steps = max(1, tokens // (args.batch * args.context))
    every = max(1, steps // 4)
    first = "".join(f'{name} = "{value}"\n' for name, value in settings.items())
    path.write_text(
        f"""{first}seed = 1
[model]
context = {args.context}
[data]
sources = [{{ path = "{DATA}" }}]
held_out = 0.05
[adapt]
anneal = 0.3
[train]
steps = {steps}
batch = {args.batch}
optimizer = "adamw"
lr = {args.lr}
warmup = {min(50, max(1, steps // 10))}
ema = 0.99
decay = 0.3
threads = 1
dtype = "float32"
checkpoint_every = {every}
evaluate_every = {every}
"""
    )
    return path


def contestants(out: Path, kind: str, args: argparse.Namespace) -> dict[str, Path]:
    """The runs of a kind, trained where they are not; by name."""
    random, trained = out / f"{kind}-random", out / f"{kind}-trained"
    if not (random / "config.json").exists():
        make_folder(random, kind, args)
    runs = {name: out / f"{kind}-{name}" for name in ("pretraining", "adapted", "scratch")}
    jobs = {
        "pretraining": (random, "text", args.pretrain_tokens),
        "adapted": (trained, "adapt", args.tokens),
        "scratch": (random, "adapt", args.tokens),
    }
    for name, (init, method, tokens) in jobs.items():
        if name == "adapted" and not (trained / "config.json").exists():
            layout = ("--to", "qwen2") if kind == "qwen2" else ()
            sfumato("convert", runs["pretraining"] / "model", trained, *layout)
        if not (runs[name] / "model").is_dir():
            path = recipe(out / f"{kind}-{name}.toml", args, tokens, name=name, init=str(init), method=method)
            sfumato("tune", path, "--out", runs[name])
    return runs


def main() -> None:
    """Train, report, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/adapt-hub"), help="(default: %(default)s)")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--lr", type=float, default=2e-3, help="(default: %(default)s)")
    for name, size in {
        "tokens": 100_000,
        "pretrain-tokens": 400_000,
        "batch": 16,
        "context": 128,
        "width": 128,
        "layers": 4,
        "heads": 4,
        "vocab-size": 2048,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=size, help="(default: %(default)s)")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for kind in args.kinds:
        for name, folder in contestants(args.out, kind, args).items():
            points = curve(folder)
            rows.append({"kind": kind, "name": name, "tokens": [t for t, _ in points], "bits": [b for _, b in points]})
    print("held-out text, bits per byte, after so many tokens (pretraining: in what the model is for; else a bound)")
    for part in (["pretraining"], ["adapted", "scratch"]):
        chosen = [row for row in rows if row["name"] in part]
        marks = sorted({tokens for row in chosen for tokens in row["tokens"]})
        cells = []
        for row in chosen:
            known = dict(zip(row["tokens"], row["bits"], strict=True))
            cells.append([f"{row['kind']}, {row['name']}", *(f"{known[m]:.3f}" if m in known else "" for m in marks)])
        print_table(["", *(f"{mark:,.0f}" for mark in marks)], cells)
    about = this_machine(torch.device("cpu"), torch.float32)
    print(about.line)
    (args.out / "adapt_hub.json").write_text(json.dumps({"rows": rows, "machine": about.line}, indent=1) + "\n")


if __name__ == "__main__":
    main()
