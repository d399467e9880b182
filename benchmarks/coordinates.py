"""The coordinate check: how far a few steps move a network, at several widths and equal learning rates.

    python benchmarks/coordinates.py

Trains a part of a random network (its hidden matrices, its embeddings, or everything) for six steps on an easy text,
and prints the root mean square of what changed in the residual stream and in the logits: without train.transfer_width,
and with it. Where the learning rate transfers across width, a row is flat. Source of the check: Yang et al. 2022 (muP,
2203.03466, appendix D.1).
"""

import argparse
from collections.abc import Sequence
from typing import Any

import bench
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from sfumato.canvas import Where
from sfumato.config import ModelConfig, TrainConfig
from sfumato.model.layout import layout_named
from sfumato.model.transformer import Transformer
from sfumato.train.optimiser import build_optimisers

VOCABULARY, ROWS, LENGTH, STEPS, HEAD = 256, 8, 64, 6, 16
CASES: Sequence[tuple[str, str, dict[str, Any]]] = (
    ("matrices by Muon, 2e-2", "matrices", {"optimizer": "muon"}),
    ("matrices by AdamW, 4e-3", "matrices", {"optimizer": "adamw", "lr": 4e-3}),
    ("embeddings by AdamW, 2e-2", "embeddings", {"optimizer": "adamw", "lr": 2e-2}),
    ("all, Muon and AdamW, 2e-2", "all", {"optimizer": "muon", "lr": 2e-2}),
)


def text() -> Tensor:
    """Tokens (B, L), of which each mostly decides the next."""
    generator = torch.Generator().manual_seed(0)
    follows = torch.randperm(VOCABULARY, generator=generator)
    tokens = [torch.randint(VOCABULARY, (ROWS,), generator=generator)]
    for _ in range(LENGTH - 1):
        other = torch.randint(VOCABULARY, (ROWS,), generator=generator)
        tokens.append(torch.where(torch.rand(ROWS, generator=generator) < 0.3, other, follows[tokens[-1]]))
    return torch.stack(tokens, dim=1)


def moved(width: int, learning: str, train: dict[str, Any]) -> tuple[float, float]:
    """Root mean square of what the steps change of the residual stream, and of the logits."""
    mlp_width = width * 11 // 4
    model = ModelConfig(VOCABULARY, width, layers=2, heads=width // HEAD, mlp_width=mlp_width, context=LENGTH)
    network = Transformer(model).initialise(1)
    for name, parameter in network.named_parameters():
        table = name == "embedding.weight"
        wanted = {"all": True, "embeddings": table, "matrices": parameter.ndim == 2 and not table}
        parameter.requires_grad_(wanted[learning])
    optimisers = build_optimisers(network, TrainConfig(dtype="float32", **train))
    tokens_BL, layout = text(), layout_named("causal", 0, 0)
    where = Where(torch.arange(LENGTH).expand(ROWS, -1), torch.zeros(ROWS, LENGTH, dtype=torch.long))
    stream: list[Tensor] = []
    logits: list[Tensor] = []
    network.blocks[-1].register_forward_hook(lambda module, given, out: stream.append(out.detach()))
    for _ in range(STEPS + 1):
        logits_BLV = network.readout(network.encode(tokens_BL, where=where, layout=layout))
        logits.append(logits_BLV.detach())
        for optimiser in optimisers:
            optimiser.zero_grad()
        cross_entropy(logits_BLV[:, :-1].flatten(0, 1), tokens_BL[:, 1:].flatten()).backward()
        for optimiser in optimisers:
            optimiser.step()
    stream_change, logits_change = (float((x[-1] - x[0]).square().mean().sqrt()) for x in (stream, logits))
    return stream_change, logits_change


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--widths", type=int, nargs="+", default=[32, 64, 128, 256], help="(default: %(default)s)")
    parser.add_argument("--transfer-width", type=int, default=64, help="(default: %(default)s)")
    bench.add_flags(parser)
    args = parser.parse_args()
    device, dtype = bench.begin(args)
    rows, cells = [], []
    for label, learning, train in CASES:
        for transfer in (0, args.transfer_width):
            found = [moved(width, learning, {**train, "transfer_width": transfer}) for width in args.widths]
            for i, of in enumerate(("stream", "logits")):
                values = [pair[i] for pair in found]
                rows.append({"case": label, "of": of, "transfer_width": transfer, "changes": values})
                cells.append([label, of, str(transfer or "-"), *(f"{v:.2f}" for v in values)])
    bench.print_table(["what learns, how fast", "change of", "transfer_width", *map(str, args.widths)], cells)
    bench.finish(args.json, bench.machine(device, dtype), (), widths=args.widths, rows=rows)


if __name__ == "__main__":
    main()
