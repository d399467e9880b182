"""What a figure of speed is worthless without: the machine, and how it was used."""

import hashlib
import os
import platform
from dataclasses import dataclass
from pathlib import Path

import torch

from sfumato.model.weights import weight_files
from sfumato.sample.language_model import LanguageModel


@dataclass(frozen=True)
class Machine:
    """Where something was measured."""

    cpu: str
    cores: int
    threads: int
    """That torch computes with."""
    gpu: str | None
    device: str
    dtype: str
    torch: str
    python: str

    @property
    def line(self) -> str:
        """All of it, for people."""
        where = f"{self.gpu}; " if self.gpu else ""
        threads = f"{self.threads} thread{'s' * (self.threads != 1)}"
        return f"{where}{self.cpu}, {self.cores} cores, {threads}, torch {self.torch}, {self.device} {self.dtype}"


def this_machine(device: torch.device, dtype: torch.dtype) -> Machine:
    """The one that we run on."""
    return Machine(
        cpu=cpu_name(),
        cores=os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        gpu=torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        device=device.type,
        dtype=str(dtype).removeprefix("torch."),
        torch=torch.__version__,
        python=platform.python_version(),
    )


def cpu_name() -> str:
    """The processor's name; Linux alone tells the full one."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def weights_sha256(model: LanguageModel) -> str:
    """SHA-256 of a model's weight files, one after the other; of a model that is only in memory, of its parameters."""
    found = hashlib.sha256()
    if model.path:
        for file in weight_files(model.path):
            with open(file, "rb") as handle:
                while block := handle.read(1 << 24):
                    found.update(block)
    else:
        for name, tensor in sorted(model.denoiser.state_dict().items()):
            found.update(name.encode() + tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
