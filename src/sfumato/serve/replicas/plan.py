"""What is served by how many replicas."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sfumato.config import ConfigError
from sfumato.serve.service import Options
from sfumato.serve.worker import WorkerConfig


@dataclass(frozen=True)
class Scale:
    """How many replicas."""

    least: int = 1
    most: int = 1

    @classmethod
    def read(cls, text: str) -> "Scale":
        """`3`, or `1:8` = as many as the load needs.

        Raises:
            ConfigError: neither.
        """
        least, colon, most = text.partition(":")
        if least.isdecimal() and (most.isdecimal() if colon else True):
            scale = cls(int(least), int(most or least))
            if 1 <= scale.least <= scale.most:
                return scale
        raise ConfigError(f"--replicas: expected a number such as 2, or LEAST:MOST such as 1:8, got {text!r}")


@dataclass(frozen=True)
class Group:
    """Models that are held together by each of some replicas."""

    name: str
    models: tuple[str, ...]
    scale: Scale


@dataclass(frozen=True)
class Plan:
    """All that the replicas need to begin; it travels to them, so paths mean the same on every machine."""

    groups: tuple[Group, ...]
    worker: WorkerConfig
    """Of each replica, with all models; a replica keeps those of its group."""
    options: Options
    queue: int = 64
    """Rows that may wait in a replica."""
    workers: int = 1
    """Processes that decode, of each replica."""
    registries: Mapping[str, str] = field(default_factory=dict)
    """Folder of the registry of each model that follows one."""
    feedback_url: str = ""
    """Empty = no feedback is kept."""
    cpus: float = 1.0
    """Cores that a replica needs, for Ray to place it."""
    gpus: float = 0.0
    gateways: int = 1

    @property
    def most(self) -> int:
        """Replicas at most."""
        return sum(group.scale.most for group in self.groups)


def groups(words: Sequence[str], models: Sequence[str]) -> tuple[Group, ...]:
    """Who holds which models.

    Args:
        words: `2` or `1:8` for all models together, and `NAME=2` or `NAME=1:8` for one that gets replicas of its own.
        models: names of all models.

    Returns:
        Those who hold the first model come first: they answer requests that name none.

    Raises:
        ConfigError: words that cannot be used.
    """
    own, rest = {}, None
    for word in words:
        name, equals, scale = word.rpartition("=")
        if not equals:
            if rest:
                raise ConfigError(f"--replicas: two numbers for all models; for one of them say NAME={word}")
            rest = Scale.read(word)
        elif name not in models or name in own:
            raise ConfigError(f"--replicas: {name!r} is {'named twice' if name in own else 'no model here'}")
        else:
            own[name] = Scale.read(scale)
    found = [Group(f"model-{name}", (name,), scale) for name, scale in own.items()]
    if others := tuple(name for name in models if name not in own):
        found.append(Group("models", others, rest or Scale()))
    elif rest:
        raise ConfigError("--replicas: every model has replicas of its own; leave the other number out")
    return tuple(sorted(found, key=lambda group: models[0] not in group.models))
