"""Who may ask, and how often: bearer keys from a file, and a bucket of requests for each owner."""

import hashlib
import hmac
import math
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

from sfumato.serve.errors import ApiError

OWNERS = 10_000
"""Buckets that are remembered; the ones used longest ago are forgotten, that is, full again."""


@dataclass(frozen=True)
class Keys:
    """The keys that open the server; none = it is open."""

    digests: tuple[tuple[str, bytes], ...] = ()
    """(name, SHA-256 of the key)."""

    @classmethod
    def read(cls, file: str | Path) -> "Keys":
        """A file with one key a line, `key` or `name:key`; empty lines and lines that begin with # are skipped.

        Raises:
            ValueError: it holds no key, or a key twice.
            OSError: it cannot be read.
        """
        found: dict[bytes, str] = {}
        for number, line in enumerate(Path(file).read_text("utf-8").splitlines(), 1):
            line = line.strip()
            if not line or line.startswith("#"):
                continue
            name, colon, key = line.partition(":")
            key, name = (key.strip(), name.strip()) if colon else (line, f"key-{number}")
            if not key or not key.isascii() or not name:
                raise ValueError(f"{file}, line {number}: expected KEY or NAME:KEY in ASCII")
            digest = hashlib.sha256(key.encode()).digest()
            if digest in found:
                raise ValueError(f"{file}, line {number}: this key stands there twice; remove one")
            found[digest] = name
        if not found:
            raise ValueError(f"{file}: holds no key; write one a line, or leave the file out for a server without keys")
        return cls(tuple((name, digest) for digest, name in found.items()))

    def owner(self, authorization: str | None) -> str:
        """The name of the key in the header; every key is compared, in the same time whatever it is.

        Raises:
            ApiError: 401, it is none of ours.
        """
        scheme, _, key = (authorization or "").partition(" ")
        digest = hashlib.sha256(key.strip().encode(errors="replace")).digest()
        owner = ""
        for name, known in self.digests:
            if hmac.compare_digest(digest, known):
                owner = name
        if scheme.lower() != "bearer" or not owner:
            said = "wrong API key" if authorization else "missing API key: send Authorization: Bearer KEY"
            raise ApiError(401, said, code="invalid_api_key")
        return owner


@dataclass
class RateLimit:
    """A bucket of requests for each owner, refilled evenly."""

    per_minute: int
    """0 = no limit; also the size of the bucket."""
    buckets: "OrderedDict[str, tuple[float, float]]" = field(default_factory=OrderedDict)
    """(requests left, when)."""

    def take(self, owner: str, now: float | None = None) -> None:
        """Count a request.

        Raises:
            ApiError: 429, with the seconds until the next one is welcome.
        """
        if not self.per_minute:
            return
        now = time.monotonic() if now is None else now
        left, since = self.buckets.pop(owner, (float(self.per_minute), now))
        left = min(float(self.per_minute), left + (now - since) * self.per_minute / 60)
        allowed = left >= 1
        self.buckets[owner] = (left - allowed, now)
        if len(self.buckets) > OWNERS:
            self.buckets.popitem(last=False)
        if not allowed:
            wait = max(1, math.ceil((1 - left) * 60 / self.per_minute))
            message = f"too many requests: {self.per_minute} a minute are allowed; try again in {wait} s"
            raise ApiError(429, message, code="rate_limit_exceeded", retry_after=wait)
