"""Environment variables that change what happens, and limits of the process."""

from collections.abc import Iterator, Mapping

from sfumato.doctor.finding import Finding, judged

_TOLD = ("CUDA_VISIBLE_DEVICES", "HF_HOME", "HF_HUB_OFFLINE", "SFUMATO_CACHE", "PYTORCH_CUDA_ALLOC_CONF")
RANK = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_SLOWER = {
    "CUDA_LAUNCH_BLOCKING": "it makes every GPU kernel wait",
    "NCCL_P2P_DISABLE": "GPUs then copy through the host",
    "NCCL_IB_DISABLE": "InfiniBand is then left unused",
    "NCCL_SHM_DISABLE": "processes of one machine then talk over the network",
    "TORCH_DISTRIBUTED_DEBUG": "it checks every collective",
    "ATEN_CPU_CAPABILITY": "torch may then leave instructions of this CPU unused",
}
_HARMLESS = {"", "0", "OFF", "INFO"}


def variables(environ: Mapping[str, str], cores: float | None = None) -> Iterator[Finding]:
    """The variables that matter.

    Args:
        environ: the environment.
        cores: that this process may use; None = measured.
    """
    if cores is None:
        from sfumato.doctor.hardware import available_cores

        cores = available_cores()
    threads = environ.get("OMP_NUM_THREADS", "")
    if threads:
        good = threads.isdigit() and 0 < int(threads) <= max(1.0, cores)
        advice = f"there are {cores:g} cores for this process: unset OMP_NUM_THREADS, or set it to {max(1, int(cores))}"
        yield judged(good, "OMP_NUM_THREADS", threads, advice)
    for name in _TOLD:
        if name in environ:
            hides = name == "CUDA_VISIBLE_DEVICES" and environ[name] in ("", "-1")
            yield judged(not hides, name, environ[name] or "(empty)", "it hides every GPU: unset it to use them")
    for name, why in _SLOWER.items():
        if environ.get(name, "").upper() not in _HARMLESS:
            yield Finding(name, environ[name], "warn", f"{why}: unset it where you do not need it")
    others = sorted(name for name in environ if name.startswith(("NCCL_", "GLOO_")) and name not in _SLOWER)
    for name in others:
        yield Finding(name, environ[name])
    yield from _ranks(environ)


def _ranks(environ: Mapping[str, str]) -> Iterator[Finding]:
    """The variables of torchrun: all of them, or none."""
    found = {name: environ[name] for name in RANK if environ.get(name)}
    if not {"RANK", "WORLD_SIZE"} & set(found):
        return
    missing = [name for name in RANK if name not in found]
    if missing:
        advice = "start ranks with torchrun, which sets all of them; or unset RANK and WORLD_SIZE"
        yield Finding("torchrun", f"{', '.join(found)} without {', '.join(missing)}", "fail", advice)
        return
    said = "rank {RANK} of {WORLD_SIZE}, meeting at {MASTER_ADDR}:{MASTER_PORT}".format(**found)
    try:
        good = 0 <= int(found["RANK"]) < int(found["WORLD_SIZE"])
    except ValueError:
        good = False
    yield judged(good, "torchrun", said, "RANK must be a number below WORLD_SIZE", "fail")


def open_files(least: int = 1024) -> Iterator[Finding]:
    """How many files and connections the process may have open."""
    try:
        import resource
    except ImportError:  # not on Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    endless = soft == resource.RLIM_INFINITY
    advice = f"a busy server and Ray need more: ulimit -n {min(65536, hard) if hard > 0 else 65536}"
    yield judged(endless or soft >= least, "open files", "unlimited" if endless else f"at most {soft:,}", advice)
