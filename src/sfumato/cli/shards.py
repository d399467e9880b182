"""What `generate` and `evaluate` share where a large input becomes a large output: its flags, and the run."""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sfumato.cli.progress import Bar
from sfumato.config import ConfigError, option

if TYPE_CHECKING:
    from sfumato.bulk.run import Kind
    from sfumato.sample.records import Record


@dataclass(frozen=True, kw_only=True)
class ShardOptions:
    """The flags."""

    input: str = option("", "many at once: JSON lines, .txt or Parquet; a file, a folder or a URL")
    output: str = option("", "--input: .jsonl file, or a folder for shards; a run that was stopped goes on with it")
    replicas: int = option(0, "--input: copies of the model at work on Ray, one a GPU; 0 = this process", at_least=0)
    ray_address: str = option("", "--replicas: a cluster that is running (default: RAY_ADDRESS, else this machine)")
    shard_rows: int = option(0, "--input: records in a shard; 0 = by the batch and their number", at_least=0)

    def settled(self, device: str, dtype: str) -> str:
        """The dtype of all shards. `auto` may measure differently in each copy, and when the run is gone on with.

        Where the copies are on another cluster, `auto` stays what it is: that may have GPUs, where it measures nothing.
        """
        if dtype != "auto":
            return dtype
        from sfumato.bulk.shards import manifest_of

        if known := (manifest_of(self.output) or {}).get("dtype"):
            return known
        if self.replicas and (self.ray_address or os.environ.get("RAY_ADDRESS")):
            return dtype
        from sfumato.model.device import resolve_device, resolve_dtype

        return str(resolve_dtype(dtype, resolve_device(device))).removeprefix("torch.")

    def run_shards(
        self, kind: "Kind", bar: Bar, title: str, check: "Callable[[Iterable[Record]], object] | None" = None
    ) -> Mapping[str, float]:
        """Work through the input; what the work counts."""
        from sfumato.bulk.run import run

        if self.ray_address and not self.replicas:
            raise ConfigError("--ray-address: goes with --replicas N, the number of copies at work")
        first = -1

        def tell(done: int, total: int) -> None:
            """Show a rate and what is left as soon as there is a rate."""
            nonlocal first
            if first < 0:
                bar.begin(f"{title} (starting)")
                first = done
            elif done > first:
                if not bar.total:
                    bar.begin(title, total, first)
                bar.show(done)

        how = {"address": self.ray_address, "shard_rows": self.shard_rows, "check": check, "progress": tell}
        return run(kind, self.input, self.output, replicas=self.replicas, **how)
