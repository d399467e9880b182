"""The whole examination: what is looked at, in which order, and how long each part may take."""

from collections.abc import Iterator, Mapping
from tempfile import gettempdir

from sfumato.doctor.bounded import Begun, alone, examine
from sfumato.doctor.environment import RANK
from sfumato.doctor.finding import Check, Finding
from sfumato.doctor.world import everyone

_PATIENCE = 60  # seconds for the ranks of torchrun to find each other


def checks(environ: Mapping[str, str], run: str, cache: str, *, quick: bool) -> list[Check]:
    """What is looked at on this machine.

    Args:
        environ: the environment.
        run: the folder of runs.
        cache: the folder of the cache.
        quick: leave out how fast the machine is, and the self-test.
    """
    here = "sfumato.doctor"
    found = [
        Check("Software", "Python", f"{here}.versions:interpreter", 30),
        Check("Software", "torch", f"{here}.versions:torch_itself", 180),
        Check("Software", "packages", f"{here}.versions:packages", 60),
        Check("Hardware", "CPU", f"{here}.hardware:processors", 60),
        Check("Hardware", "memory", f"{here}.hardware:memory", 30),
        Check("Hardware", "GPU", f"{here}.hardware:graphics", 90),
        Check("Environment", "variables", f"{here}.environment:variables", 30, {"environ": dict(environ)}),
        Check("Environment", "open files", f"{here}.environment:open_files", 30),
        Check("Folders", "runs", f"{here}.folders:folder", 60, {"what": "runs", "path": run}),
        Check("Folders", "cache", f"{here}.folders:folder", 60, {"what": "cache", "path": cache}),
        Check("Folders", "temporary files", f"{here}.folders:folder", 60, {"what": "temporary", "path": gettempdir()}),
    ]
    if quick:
        return found
    return [
        *found,
        Check("Speed", "memory copy", f"{here}.speed:memory_copy", 60),
        Check("Speed", "copies to the GPU", f"{here}.speed:host_and_device", 60),
        Check("Speed", "matrix products", f"{here}.speed:products", 90),
        Check("Speed", "threads", f"{here}.speed:threads", 60),
        Check("Speed", "processes", f"{here}.world:loopback", 260, {"patience": 40}),
        Check("Self-test", "bound and entropy", f"{here}.exact:oracle", 60),
        Check("Self-test", "training", f"{here}.self_test:training", 120),
        Check("Self-test", "writing", f"{here}.self_test:writing", 120),
    ]


def together(environ: Mapping[str, str]) -> bool:
    """Whether this is one of several ranks; with only some of torchrun's variables it is none, and is told so."""
    return all(environ.get(name) for name in RANK) and environ["WORLD_SIZE"] != "1"


def examination(
    environ: Mapping[str, str], run: str, cache: str, *, quick: bool = False, begun: Begun = lambda check: None
) -> Iterator[tuple[Check, Finding]]:
    """Everything, on rank 0 of torchrun or outside of it; of other ranks their part in what all of them do.

    Args:
        environ: the environment.
        run: the folder of runs.
        cache: the folder of the cache.
        quick: only look.
        begun: told of each check before it runs.

    Yields:
        Each check with each of its findings, as soon as there is one.
    """
    if together(environ):
        yield from everyone(environ, _PATIENCE, begun)
    if not together(environ) or environ["RANK"] == "0":
        yield from examine(checks(environ, run, cache, quick=quick), alone(environ), begun)
