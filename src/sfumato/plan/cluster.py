"""What a run is spread over: devices, machines, the links between them, and who holds which part of the weights."""

import math
from dataclasses import dataclass

from sfumato.config import ConfigError, TrainConfig
from sfumato.train.devices import Device


@dataclass(frozen=True)
class Cluster:
    """Devices of one kind, in machines."""

    device: Device
    count: int
    """Devices, and as many processes."""
    per_machine: int = 8
    network: float = 50e9
    """Bytes/s that a device sends, and at once receives, from other machines."""

    def rate(self, group: int, apart: int = 1) -> float:
        """Bytes/s of the slowest link of a ring of so many devices, which are so many numbers apart."""
        return self.device.link if group * apart <= self.per_machine else min(self.device.link, self.network)


@dataclass(frozen=True)
class Share:
    """What one process of a run works on."""

    processes: int
    shard: int
    """Processes that share one copy of the weights; 1 = each has its own."""
    batch: int
    """Rows in a forward."""
    accumulate: int
    """Forwards in an optimiser step."""

    @classmethod
    def of(cls, train: TrainConfig, processes: int, shard: int) -> "Share":
        """The share of one of so many processes: accumulation is divided first, then the batch.

        Args:
            train: the batch of the whole step.
            processes: how many there are.
            shard: of how many one copy of the weights is; 0 = of all.

        Raises:
            ConfigError: the rows of a step, or the processes, cannot be divided so.
        """
        rows = train.batch * train.accumulate
        if rows % processes:
            raise ConfigError(
                f"train.batch * train.accumulate = {rows} rows a step cannot be shared by {processes} processes; "
                f"take a divisor of {rows}, or another train.accumulate"
            )
        shard = shard or processes
        if processes % shard:
            raise ConfigError(f"expected shard to divide the number of processes, got {shard} and {processes}")
        divided = math.gcd(train.accumulate, processes)
        return cls(processes, shard, train.batch // (processes // divided), train.accumulate // divided)

    @property
    def replicas(self) -> int:
        """Copies of the weights."""
        return self.processes // self.shard
