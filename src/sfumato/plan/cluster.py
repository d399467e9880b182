"""What a run is spread over: devices, machines, the links between them, and who holds which part of the weights."""

from dataclasses import dataclass

from sfumato.config import ConfigError, TrainConfig
from sfumato.train.devices import Device
from sfumato.train.parallel import Processes


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
    def of(cls, train: TrainConfig, processes: int) -> "Share":
        """The share of one of so many processes.

        Args:
            train: the batch of the whole step, and how many share a copy of the weights.
            processes: how many there are.

        Raises:
            ConfigError: the rows of a step, or the processes, cannot be divided so.
        """
        shard = train.shard or processes
        if processes % shard:
            raise ConfigError(
                f"train.shard: {processes} devices cannot be divided into groups of {shard}; use a divisor"
            )
        return cls(processes, shard, *Processes(count=processes).rows(train))

    @property
    def replicas(self) -> int:
        """Copies of the weights."""
        return self.processes // self.shard
