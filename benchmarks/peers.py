"""Our decoding beside the public programs: the same weights, the same settings, so many tokens in as many forwards.

    python benchmarks/peers.py --llada LLaDA --fast-dllm Fast-dLLM --dllm dllm --compile --threads 1

One random network of LLaDA's architecture writes with our decoder and with the loops of local checkouts: LLaDA's on our
network and on LLaDA's own, Fast-dLLM's and dLLM's on LLaDA's own, diffusers' pipeline for LLaDA2 on ours in the block
layout, and transformers' Llama as the autoregressive twin. It fetches nothing, and what is not there is left out and
named. The quality beside each speed is the share of tokens that are the program's own at the same place; where the same
computation is done, all must be (in float32; in bfloat16 rounding may break ties otherwise).

Shape letters: B rows, P prompt length.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bench
import programs
import torch
from contestants import END, FIRST, MASK, Contestant, Setting, ours, public
from generate_speed import differ, measure, result, show
from torch import Tensor

from sfumato.config import ModelConfig
from sfumato.model.layout import Block, Causal
from sfumato.model.transformer import Transformer
from sfumato.process import Autoregressive
from sfumato.sample.left_to_right import LeftToRight
from sfumato.sample.order import Order

CACHES = ("none", "prefix", "dual")


def llada_like(args: argparse.Namespace) -> Transformer:
    """Random weights; mask, end and the other special tokens get the logit 0, never the highest of thousands."""
    form: dict[str, Any] = {"tied": False, "qk_norm": False, "scale_embeddings": False}
    form |= {"norm_eps": 1e-5, "rope_theta": 500000.0}
    config = ModelConfig(**bench.sizes_of(args), **form, vocab_size=args.vocab, context=args.prompt + args.new)
    network = Transformer(config)
    bench.randomise(network)
    assert network.head is not None
    network.requires_grad_(False).head.weight[:FIRST] = 0
    return network.eval()


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    bench.add_sizes(parser, width=512, layers=8, heads=8, mlp_width=1792, vocab=8192)
    parser.add_argument("--prompt", type=int, default=64, help="tokens of the prompt (default: %(default)s)")
    parser.add_argument("--new", type=int, default=256, help="tokens to write (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=64, help="forwards to write them in (default: %(default)s)")
    parser.add_argument("--block", type=int, default=32, help="tokens a block (default: %(default)s)")
    parser.add_argument("--only", choices=("full", "block", "twin"), help="one of the three tables")
    parser.add_argument("--compile", action="store_true", help="also ours compiled")
    parser.add_argument(
        "--cpu-seconds",
        action="store_true",
        help="count the processor's seconds, not the clock's: on a machine that others use, with --threads 1",
    )
    for name, what in (("llada", "LLaDA"), ("fast-dllm", "Fast-dLLM"), ("dllm", "dLLM")):
        parser.add_argument(f"--{name}", type=Path, metavar="FOLDER", help=f"a checkout of {what}")
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds (default: %(default)s)")
    bench.add_flags(parser)
    args = parser.parse_args()
    if args.block < 1 or args.new % args.block or args.steps < 1 or args.steps % (args.new // args.block):
        parser.error(f"--block must cut --new into blocks of equally many steps: got {args.block}")
    if args.prompt % args.block:
        parser.error(f"--block must divide --prompt, so that the block layout has the same blocks: got {args.block}")
    for name in ("llada", "fast_dllm", "dllm"):
        folder = getattr(args, name)
        if folder is not None and not folder.is_dir():
            parser.error(f"--{name.replace('_', '-')}: no such folder: {folder}")
    return args


def main() -> int:
    """Measure, print, write."""
    args = arguments()
    device, dtype = bench.begin(args)
    notes = []
    if args.cpu_seconds:
        bench.Stopwatch.clock = staticmethod(time.process_time)
        notes.append("seconds are those that the process had a processor: tokens/s as if the machine were its own")
    about = bench.machine(device, dtype)
    network = llada_like(args).to(device, dtype)
    generator = torch.Generator().manual_seed(1)
    prompt_BP = torch.randint(FIRST, args.vocab, (1, args.prompt), generator=generator).to(device)
    setting = Setting(network, prompt_BP, args.new, args.steps, args.block, device, dtype, args.compile)
    print(f"{network.num_parameters() / 1e6:.1f}M parameters, {args.prompt} + {args.new} tokens, {args.steps} steps")
    tables, errors = [], []
    found = {
        "full": ("full layout", lambda: full(setting, args, notes)),
        "block": ("block layout", lambda: block(setting, notes)),
        "twin": ("one token a step", lambda: twin(setting, notes)),
    }
    for title, build in found.values() if args.only is None else [found[args.only]]:
        contestants = build()
        print(f"\n{title}")
        if measure(contestants, args.rounds):
            errors.append(f"{title}: something was compiled inside a timed round")
        rows = [result(one, contestants, setting) for one in contestants]
        if dtype == torch.float32:
            errors += [f"{row['name']}: not the tokens of {row['like']}" for row in differ(rows)]
        show(rows, 1, "same tokens: as the first program with this cache")
        tables.append({"title": title, "rows": rows})
    bench.finish(args.json, about, notes, parameters=network.num_parameters(), tables=tables)
    for error in errors:
        print(f"error: {error}", file=sys.stderr)
    return int(bool(errors))


def full(setting: Setting, args: argparse.Namespace, notes: list[str]) -> list[Contestant]:
    """Everybody who sees the whole canvas: without a cache, with the prefix and the dual one."""
    found: dict[str, list[Contestant]] = {cache: [] for cache in CACHES}

    def add(cache: str, name: str, reference: str, build: Callable[[bench.Probe], Callable[[Tensor], Tensor]]) -> None:
        probe = bench.Probe(setting.device)
        like = found[cache][0].name if found[cache] else ""
        try:
            write = build(probe)
        except (ImportError, OSError) as error:
            notes.append(f"{name} was left out: {error}")
            return
        found[cache].append(public(setting, name, write, probe, reference=reference, like=like, exactly=bool(like)))

    _llada(setting, args, add, notes)
    _fast_dllm(setting, args, add, notes)
    _dllm(setting, args, add, notes)
    confidence, everybody = Order("confidence"), []
    for cache in CACHES:
        everybody += found[cache]
        how: dict[str, Any] = {"cache": cache, "block": setting.block}
        if found[cache]:
            how |= {"like": found[cache][0].name, "exactly": True}
        name = "ours, no cache" if cache == "none" else f"ours, {cache} cache"
        everybody.append(ours(setting, name, confidence, **how))
        if setting.compile and cache != "prefix":  # whose runs have another length in each block
            everybody.append(ours(setting, f"{name}, compiled", confidence, compiled=True, **how))
    return everybody


Add = Callable[[str, str, str, Callable[[bench.Probe], Callable[[Tensor], Tensor]]], None]


def _llada(setting: Setting, args: argparse.Namespace, add: Add, notes: list[str]) -> None:
    """LLaDA's loop, on our network and, where Fast-dLLM is there, on LLaDA's."""
    if args.llada is None:
        notes.append("no --llada: LLaDA's loop is left out")
        return
    options = {"steps": setting.steps, "gen_length": setting.new, "block_length": setting.block, "mask_id": MASK}

    def loop(model: Any) -> Callable[[Tensor], Tensor]:
        generate = programs.load_file(args.llada / "generate.py").generate
        return lambda prompt_BP: generate(model, prompt_BP, **options)

    if args.fast_dllm is not None:
        add("none", "LLaDA generate.py", "LLaDA", lambda probe: loop(_their_network(setting, args, probe)))
    title = "" if args.fast_dllm is not None else "LLaDA"
    model = "LLaDA generate.py, our network"
    add("none", model, title, lambda probe: loop(programs.FullCanvas(setting.network, probe)))


def _fast_dllm(setting: Setting, args: argparse.Namespace, add: Add, notes: list[str]) -> None:
    """Fast-dLLM's loops on the network beside them."""
    if args.fast_dllm is None:
        notes.append("no --fast-dllm: Fast-dLLM, and with it LLaDA's own network, are left out")
        return
    options = {"steps": setting.steps, "gen_length": setting.new, "block_length": setting.block, "mask_id": MASK}
    about = setting.network.config, setting.device, setting.dtype
    path = args.fast_dllm / "llada" / "generate.py"
    for cache in CACHES:
        name = "Fast-dLLM, no cache" if cache == "none" else f"Fast-dLLM, {cache} cache"

        def build(probe: bench.Probe, cache: str = cache) -> Callable[[Tensor], Tensor]:
            return programs.fast_dllm(path, cache, *about, probe, never=FIRST, weights=setting.network, **options)

        add(cache, name, "" if cache == "none" else name, build)


def _dllm(setting: Setting, args: argparse.Namespace, add: Add, notes: list[str]) -> None:
    """dLLM's samplers, on the network beside Fast-dLLM's loops, of which dLLM has a copy; else on ours."""
    if args.dllm is None:
        notes.append("no --dllm: dLLM is left out")
        return
    options = {"steps": setting.steps, "max_new_tokens": setting.new, "block_size": setting.block}
    for cache in CACHES if args.fast_dllm is not None else ("none",):

        def build(probe: bench.Probe, cache: str = cache) -> Callable[[Tensor], Tensor]:
            model: Any = programs.FullCanvas(setting.network, probe)
            if args.fast_dllm is not None:
                model = _their_network(setting, args, probe)
            return programs.dllm(args.dllm, cache, model, mask_id=MASK, end_id=END, **options)

        name = "no cache" if cache == "none" else f"{cache} cache"
        add(cache, f"dLLM, {name}", f"dLLM {name}", build)


def _their_network(setting: Setting, args: argparse.Namespace, probe: bench.Probe) -> torch.nn.Module:
    about = setting.network.config, setting.device, setting.dtype
    path = args.fast_dllm / "llada" / "generate.py"
    network = programs.llada_network(path, *about, never=FIRST, weights=setting.network)[1]
    programs.watch(network, probe)
    return network


def block(setting: Setting, notes: list[str]) -> list[Contestant]:
    """The block layout: diffusers' pipeline runs the text so far in each step, our exact cache only the block."""
    found, like, probe = [], {}, bench.Probe(setting.device)
    steps = setting.steps * setting.block // setting.new
    options = {"new": setting.new, "block": setting.block, "steps": steps, "mask_id": MASK}
    try:
        name, write = programs.llada2_pipeline(setting.network, probe, **options)
        found.append(public(setting, name, write, probe, reference="diffusers"))
        like = {"like": name, "exactly": True}
    except (ImportError, AttributeError) as error:
        notes.append(f"diffusers' LLaDA2Pipeline was left out: {error}")
    how = {"layout": Block(), "block": setting.block, "cache": "exact", **like}
    found.append(ours(setting, "ours, exact cache", Order("confidence"), **how))
    if setting.compile:
        found.append(ours(setting, "ours, exact cache, compiled", Order("confidence"), compiled=True, **how))
    return found


def twin(setting: Setting, notes: list[str]) -> list[Contestant]:
    """From left to right: transformers' Llama, and our decoder on the same weights."""
    found, like, probe = [], {}, bench.Probe(setting.device)
    about = setting.network.config, setting.device, setting.dtype
    try:
        name, write = programs.llama(*about, probe, new=setting.new, never=FIRST, weights=setting.network)
        found.append(public(setting, name, write, probe, reference="transformers"))
        like = {"like": name, "exactly": True}
    except ImportError:
        notes.append("transformers is not installed: its Llama is left out (pip install transformers)")
    how = {"process": Autoregressive(), "layout": Causal(), "cache": "exact", **like}
    found.append(ours(setting, "ours, exact cache", LeftToRight(), **how))
    if setting.compile:
        found.append(ours(setting, "ours, exact cache, compiled", LeftToRight(), compiled=True, **how))
    return found


if __name__ == "__main__":
    sys.exit(main())
