"""`sfumato serve`: models behind an OpenAI-compatible API."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from sfumato.cli.chosen import DEVICES, DTYPES
from sfumato.config import ConfigError, option, parse

if TYPE_CHECKING:
    from sfumato.serve.adapting import Adapting
    from sfumato.serve.follow import Follower
    from sfumato.serve.service import Options as ServiceOptions
    from sfumato.serve.worker import WorkerConfig
    from sfumato.store.feedback import FeedbackStore

DEFAULT_MODELS = ("tiny", "tiny-ar", "tiny-chat")
LOCAL = ("127.0.0.1", "localhost", "::1", "[::1]")


@dataclass(frozen=True, kw_only=True)
class Options:
    """The flags of this command."""

    model: tuple[str, ...] = option((), "NAME, FOLDER or NAME=FOLDER; several with commas (default: the bundled ones)")
    registry: tuple[str, ...] = option((), "FOLDER or NAME=FOLDER of a registry, whose current version is served")
    host: str = option("127.0.0.1", "address to listen at; 0.0.0.0 = every one")
    port: int = option(8000, "port to listen at; 0 = any free one", at_least=0, at_most=65535)
    api_key_file: str = option("", "file with a key, or NAME:KEY, on each line; without it everybody may ask")
    workers: int = option(1, "processes that hold the models and write", at_least=1, at_most=256)
    rows: int = option(8, "texts that a worker writes at the same time", at_least=1, at_most=4096)
    queue: int = option(64, "texts that may wait before requests are turned away", at_least=0)
    rate: int = option(0, "requests a minute for each key or address; 0 = no limit", at_least=0)
    threads: int = option(0, "threads of a worker; 0 = one for each of its cores", at_least=0)
    batch_invariant: bool = option(False, "write every text by itself, so that others cannot change a rounding; slower")
    device: str = option("auto", "where to compute", DEVICES)
    dtype: str = option("auto", "arithmetic; auto takes bfloat16 only where it is faster", DTYPES)
    feedback_url: str = option("", "where feedback is kept: a file, a database's URL, or none (default: see docs)")
    adapt: bool = option(False, "learn from feedback and latency which settings suit requests that choose none")
    presets: str = option("", "adapt: TOML file with settings to choose from, beside those of the package")
    adapt_file: str = option("", "adapt: where what is learned is kept (default: beside the feedback)")
    cors_origin: tuple[str, ...] = option((), "other sites whose pages may ask, such as https://app.example")
    max_body: int = option(1 << 20, "largest request, in bytes", at_least=1024)
    log_prompts: bool = option(False, "write prompts to the log")
    replicas: tuple[str, ...] = option(
        (), "servers behind one address, on Ray: 2, LEAST:MOST such as 1:8, NAME=2 for one model; several with commas"
    )
    ray_address: str = option("", "replicas: a Ray cluster that runs already (default: start one here)")
    replica_cpus: float = option(0.0, "replicas: cores kept for each; 0 = its share of this machine", at_least=0)
    replica_gpus: float = option(0.0, "replicas: GPUs kept for each; may be a fraction", at_least=0)
    grace: float = option(30.0, "seconds that running requests get when the server stops", at_least=0, at_most=3600)


def run(words: list[str], out: TextIO) -> None:
    """Serve until told to stop."""
    about = "Serve models behind an OpenAI-compatible API, with a web page; docs/serve.md says what it can do."
    options = parse(Options, words, "sfumato serve", about)
    import logging

    check_installed()
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    log = logging.getLogger("sfumato.serve")
    log.setLevel(logging.INFO if options.log_prompts else logging.WARNING)
    if options.replicas:
        from sfumato.cli.replicas import run_replicas

        return run_replicas(options, out)
    for name in ("ray_address", "replica_cpus", "replica_gpus"):
        if getattr(options, name):
            raise ConfigError(f"--{name.replace('_', '-')}: only has a meaning with --replicas")
    from sfumato.serve import server
    from sfumato.serve.app import create_app
    from sfumato.serve.workers import Workers

    models, followers = chosen_models(options)
    behaviour = chosen_behaviour(options)
    store = _store(options.feedback_url)
    adapting = _adapting(options, models)
    sock = server.listen(options.host, options.port)
    workers = Workers(_worker_config(options, models), workers=options.workers, queue_rows=options.queue)
    app = create_app(workers, behaviour, store, adapting, followers, manage=False)
    server.run(app, app.state.service, sock, out)


def chosen_models(options: Options) -> "tuple[dict[str, str], list[Follower]]":
    """Folder of each model by its name, and who keeps some of them at the current version of a registry.

    Raises:
        ValueError: a model or a registry that cannot be used.
    """
    followers = _followers(options.registry)
    models = {follower.name: follower.path for follower in followers}
    return (_models(options.model, models) if options.model or not models else models), followers


def chosen_behaviour(options: Options) -> "ServiceOptions":
    """How the HTTP layer behaves.

    Raises:
        ValueError, OSError: no such keys.
    """
    import logging

    from sfumato.serve.auth import Keys
    from sfumato.serve.service import Options as ServiceOptions

    keys = Keys.read(options.api_key_file) if options.api_key_file else Keys()
    local = options.host in LOCAL
    if not keys.digests and not local:
        log = logging.getLogger("sfumato.serve")
        log.warning("no --api-key-file: everybody who reaches %s may ask", options.host)
    return ServiceOptions(
        keys=keys,
        rate=options.rate,
        cors_origins=options.cors_origin,
        max_body=options.max_body,
        hosts=frozenset() if keys.digests or not local else frozenset(LOCAL),
        log_prompts=options.log_prompts,
        grace=options.grace,
    )


def check_installed() -> None:
    """ConfigError where the package was installed without what serving needs."""
    from importlib.util import find_spec

    missing = [name for name in ("fastapi", "uvicorn", "prometheus_client", "sqlalchemy") if find_spec(name) is None]
    if missing:
        raise ConfigError(f"serving needs {', '.join(missing)}, not installed here: pip install 'sfumato[serve]'")


def _worker_config(options: Options, models: dict[str, str]) -> "WorkerConfig":
    """The workers' part; this process stays on a core of its own."""
    import os

    from sfumato.serve.worker import WorkerConfig
    from sfumato.serve.workers import split_cores

    mine, theirs = split_cores()
    if mine:
        os.sched_setaffinity(0, mine)
    return WorkerConfig(
        models=models,
        cores=theirs,
        threads=options.threads,
        rows=options.rows,
        batch_invariant=options.batch_invariant,
        device=options.device,
        dtype=options.dtype,
    )


def _followers(words: tuple[str, ...]) -> "list[Follower]":
    """For each registry, under the name that its model is served under.

    Raises:
        ValueError: a name that is used twice, no registry, or one without a current version.
    """
    from sfumato.serve.follow import Follower
    from sfumato.store.registry import Registry

    found: list[Follower] = []
    for word in words:
        name, equals, path = word.partition("=")
        registry = Registry(path if equals else word)
        name = name if equals else registry.folder.name
        if not name or name in [follower.name for follower in found]:
            raise ConfigError(f"--registry: two models are called {name!r}; name them apart: NAME=FOLDER")
        found.append(Follower(name, registry))
    return found


def _models(words: tuple[str, ...], taken: dict[str, str]) -> dict[str, str]:
    """Folder of each model, by the name that it is served under; those of registries come first.

    Raises:
        ValueError: a name that is used twice, or a model that is not there.
    """
    from sfumato.model.bundle import BUNDLED, find_bundle

    models = dict(taken)
    for word in words or [name for name in DEFAULT_MODELS if (BUNDLED / name).is_dir()]:
        name, equals, path = word.partition("=")
        folder = find_bundle(path if equals else word)
        name = name if equals else Path(word).name
        if not name or name in models:
            raise ConfigError(f"--model: two models are called {name!r}; name them apart: NAME=FOLDER")
        models[name] = str(folder.resolve())
    return models


def _store(url: str) -> "FeedbackStore | None":
    """Where feedback goes."""
    if url == "none":
        return None
    from sfumato.store.feedback import FeedbackStore
    from sfumato.store.urls import default_url

    return FeedbackStore(url or default_url())


def _adapting(options: Options, models: dict[str, str]) -> "Adapting | None":
    """Who chooses settings for requests that choose none.

    Raises:
        ValueError: flags, presets or a file that cannot be used.
    """
    if not options.adapt:
        if options.presets or options.adapt_file:
            raise ConfigError(f"--{'presets' if options.presets else 'adapt-file'}: only has a meaning with --adapt")
        return None
    if options.feedback_url == "none":
        raise ConfigError("--adapt learns from feedback, but --feedback-url is none; leave that out, or name a file")
    from sfumato.sample.front import Front
    from sfumato.sample.presets import read_presets
    from sfumato.serve.adapting import Adapting
    from sfumato.store.urls import default_file

    path = Path(options.adapt_file).expanduser() if options.adapt_file else default_file("controller.json")
    adapting = Adapting(path, tables=read_presets(options.presets) if options.presets else None)
    for name, folder in models.items():
        adapting.check(name, Front.load(folder))
    return adapting
