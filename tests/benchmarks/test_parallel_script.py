"""The script of weak and strong scaling: what it makes of measured runs."""

import importlib
from argparse import Namespace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def parallel(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("parallel")


def test_scaling_is_measured_beside_one_process_and_another_loss_is_noticed(parallel: ModuleType):
    sizes = {"vocab": 64, "width": 16, "layers": 1, "heads": 2, "mlp_width": 32, "context": 16}
    args = Namespace(**sizes, batch=4, accumulate=2, optimizer="adamw")

    def runs(seconds: float, loss: float, sent: int) -> list[dict[str, Any]]:
        return [
            {"tokens": 128, "seconds": seconds, "losses": [4.0, loss], "flops": 1e6, "sent": [sent], "memory": None}
        ]

    one, copies, shards = (parallel.Way("strong", count, shard) for count, shard in ((1, 1), (2, 1), (2, 0)))
    assert list(parallel.ways([1, 2]))[3:] == [one, copies, shards]
    assert [way.name for way in parallel.ways([4])][1:4] == ["weak, 4, DDP", "weak, 4, FSDP2", "weak, 4, groups of 2"]
    measured = {one: runs(1.0, 3.0, 0), copies: runs(0.625, 3.0, 100), shards: runs(0.625, 3.1, 100)}
    rows = [parallel.row(way, measured, args, "cpu", "float32") for way in measured]
    assert [row["same_loss"] for row in rows] == [True, True, False]
    assert rows[1]["efficiency"]["median"] == pytest.approx(0.8) and rows[1]["bytes_counted"] == 100
    parameters = 64 * 16 + 4 * 16 * 16 + 3 * 16 * 32 + 3 * 16 + 2 * 8
    outside = 64 * 16 + 16  # of the layers: gathered once, not again for the backward pass
    assert [row["bytes_theory"] for row in rows] == [0, 4 * parameters, (2 + 2 + 4) * parameters - 2 * outside]
