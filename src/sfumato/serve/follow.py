"""Models that follow a registry: what is current there is served, after a promotion as after a rollback."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from sfumato.serve.workers import Workers
from sfumato.store.registry import Registry

EVERY = 2.0  # seconds between two looks at the registry

log = logging.getLogger("sfumato.serve")


class Follower:
    """Keeps one served model at the current version of its registry."""

    def __init__(self, name: str, registry: Registry):
        """Take the current version.

        Args:
            name: that the model is served under.
            registry: where its versions are.

        Raises:
            ValueError: no version is current.
        """
        self.name, self.registry, self.version = name, registry, registry.current()
        self._stamp: tuple[int, int] | None = None
        self._complaint = ""

    @property
    def path(self) -> str:
        """The folder of the version that is served."""
        return str(self.registry.model(self.version))

    def facts(self) -> dict[str, Any]:
        """What the version is and where it comes from."""
        version = self.version
        return {"version": version.id, "created": version.created, "parent": version.parent or None}

    async def look(self, workers: Workers) -> bool:
        """Serve another version if another one is current; whether that happened. What runs finishes with the old one.

        Raises:
            ValueError, OSError: it cannot be used; the old one stays, and the next look tries again.
        """
        stamp = await asyncio.to_thread(self.registry.stamp)
        if stamp == self._stamp:
            return False
        version = await asyncio.to_thread(self.registry.current)
        changed = version.id != self.version.id
        if changed:
            await workers.reload(self.name, str(self.registry.model(version)))
            self.version = version
        self._stamp = stamp
        return changed

    async def follow(self, workers: Workers) -> None:
        """Look again and again; a problem is told once."""
        while True:
            try:
                if await self.look(workers):
                    log.warning("model %s: now version %s", self.name, self.version.id)
                self._complaint = ""
            except (ValueError, OSError) as error:
                if str(error) != self._complaint:
                    log.error("model %s: version %s stays: %s", self.name, self.version.id, error)
                self._complaint = str(error)
            await asyncio.sleep(EVERY)


async def follow_all(followers: Sequence[Follower], workers: Workers) -> None:
    """Follow several registries until cancelled."""
    await asyncio.gather(*(follower.follow(workers) for follower in followers))
