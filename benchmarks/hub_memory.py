"""What loading a public model costs: memory of the process beside the file's own pages, and seconds, by precision.

A random checkpoint of LLaDA's layout is written first; each load runs in a process of its own. Needs /proc (Linux).

    python benchmarks/hub_memory.py --layers 8 --width 2048
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import bench
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from sfumato.model.bundle import Bundle, build_network, without_weights
from sfumato.model.hub.llada import LLADA
from sfumato.model.hub.reading import describe

MIB = 2**20


def checkpoint(folder: Path, layers: int, width: int) -> None:
    """Random weights in bfloat16 and two shards, as LLaDA's authors lay them out."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    backend.add_special_tokens(["<|end|>", "<|mask|>"])
    backend.save(str(folder / "tokenizer.json"))
    sizes = {"d_model": width, "n_layers": layers, "n_heads": width // 128, "mlp_hidden_size": 3 * width}
    words = {"vocab_size": 32000, "mask_token_id": 257, "eos_token_id": 256, "max_sequence_length": 4096}
    form = {"activation_type": "silu", "block_type": "llama", "layer_norm_type": "rms", "rope": True}
    content = {"model_type": "llada", **form, **sizes, **words, "weight_tying": False}
    (folder / "config.json").write_text(json.dumps(content))
    with without_weights():
        shapes = {LLADA.tensor(n): t.shape for n, t in build_network(describe(folder)[0]).state_dict().items()}
    names = sorted(shapes)
    for number in (1, 2):
        shard = {name: torch.randn(shapes[name]).to(torch.bfloat16) for name in names[number - 1 :: 2]}
        save_file(shard, folder / f"model-{number:05d}-of-00002.safetensors")


def memory() -> dict[str, int]:
    """Bytes of this process: its own, and pages of files."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {line[0].rstrip(":"): int(line[1]) * 1024 for line in lines if line[0] in ("RssAnon:", "RssFile:", "VmHWM:")}


def load(folder: Path, dtype: str) -> None:
    """Load once and print what it took, as JSON."""
    with without_weights():
        build_network(describe(folder)[0])  # imports what there is to import
    before, start = memory(), time.perf_counter()
    bundle = Bundle.load(folder, dtype=getattr(torch, dtype))
    after, seconds = memory(), time.perf_counter() - start
    took = {name: after[name] - before[name] for name in before}
    print(json.dumps({"dtype": dtype, "seconds": seconds, "parameters": bundle.denoiser.num_parameters(), **took}))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    bench.add_flags(parser)
    parser.add_argument("--layers", type=int, default=8, help="(default: %(default)s)")
    parser.add_argument("--width", type=int, default=2048, help="a multiple of 128 (default: %(default)s)")
    parser.add_argument("--load", nargs=2, metavar=("FOLDER", "DTYPE"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    device, dtype = bench.begin(args)
    if args.load:
        load(Path(args.load[0]), args.load[1])
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        checkpoint(Path(folder), args.layers, args.width)
        size = sum(path.stat().st_size for path in Path(folder).glob("*.safetensors"))
        for precision in ("bfloat16", "float32"):
            command = [sys.executable, __file__, "--load", folder, precision]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
    print(f"checkpoint: {size / MIB:.0f} MiB, bfloat16, {rows[0]['parameters']:,} parameters")
    print(f"{'loaded in':12}{'own memory':>14}{'file pages':>14}{'peak of both':>14}{'seconds':>10}")
    for row in rows:
        cells = "".join(f"{row[name] / MIB:>10.0f} MiB" for name in ("RssAnon", "RssFile", "VmHWM"))
        print(f"{row['dtype']:12}{cells}{row['seconds']:>10.2f}")
    if args.json:
        found = {"file_bytes": size, "rows": rows, "machine": bench.machine(device, dtype)}
        args.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
