"""What all tests share: one thread, the oracle, real failures of the disk, and skipping where there is no GPU."""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; the models here are too small for more
sys.path.append(str(Path(__file__).parent))  # for `oracle`


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device, and torch finds none here")


@pytest.fixture(scope="session")
def oracle():
    from oracle import Oracle

    return Oracle()


@pytest.fixture
def disk_full() -> Callable[[int], AbstractContextManager[None]]:
    """`with disk_full(size):` inside, no file can grow beyond `size` bytes: the kernel refuses, as on a full disk."""
    resource = pytest.importorskip("resource", reason="needs file size limits, which this system does not have")

    @contextlib.contextmanager
    def limited(size: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited
