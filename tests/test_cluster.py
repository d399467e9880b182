"""The files for clusters in deploy: whole, consistent, and every command in them is one that there is."""

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from sfumato.cli import COMMANDS
from sfumato.config import load_recipe

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
SLURM = sorted((DEPLOY / "slurm").glob("*.sbatch"))
MANIFESTS = {
    f"{path.stem}-{document['kind']}".lower(): document
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text("utf-8"))
}
VERSIONS = {
    "JobSet": "jobset.x-k8s.io/v1alpha2",
    "PyTorchJob": "kubeflow.org/v1",
    "RayService": "ray.io/v1",
    "RayJob": "ray.io/v1",
    "StatefulSet": "apps/v1",
    "Ingress": "networking.k8s.io/v1",
    **dict.fromkeys(("Namespace", "PersistentVolumeClaim", "Service"), "v1"),
}
MADE_BY_HAND = {"recipe", "feedback", "postgresql", "api-keys", "sfumato-tls"}  # as the comments say; TLS by its issuer


def below(node: Any, key: str) -> Iterator[Any]:
    """The values of a key, anywhere in a manifest."""
    if isinstance(node, dict):
        for name, value in node.items():
            if name == key:
                yield value
            yield from below(value, key)
    elif isinstance(node, list):
        for part in node:
            yield from below(part, key)


def pods(manifest: dict[str, Any]) -> Iterator[dict[str, Any]]:
    return (spec for spec in below(manifest, "spec") if isinstance(spec, dict) and "containers" in spec)


def sfumato_words(words: list[str]) -> Iterator[list[str]]:
    """What follows `sfumato` in a command, if it is in there."""
    if "sfumato" in words and words[0] not in ("kubectl", "docker"):
        yield words[words.index("sfumato") + 1 :]


def lines_of(text: str) -> list[str]:
    """The commands of a script or a block of a page, with the lines that a backslash divides put together."""
    return [line.strip().removesuffix("&") for line in re.sub(r"\\\n\s*", "", text).splitlines()]


def commands() -> Iterator[Any]:
    for name, manifest in MANIFESTS.items():
        for pod in pods(manifest):
            for container in pod["containers"]:
                for words in sfumato_words([*container.get("command", ()), *container.get("args", ())]):
                    yield pytest.param(words, id=f"{name}:{words[0]}")
        for entry in below(manifest, "entrypoint"):
            for words in sfumato_words(shlex.split(entry)):
                yield pytest.param(words, id=f"{name}:{words[0]}")
    for script in SLURM:
        code, examples = [], []
        for line in lines_of(script.read_text("utf-8")):
            (examples if line.startswith("#") else code).append(line)
        given = next(re.split(r"\.sbatch ", line)[1] for line in examples if ".sbatch recipes" in line)
        for line in code:
            if "sfumato " in line and not line.startswith(("(", "source")):
                for words in sfumato_words(shlex.split(line.replace('"$@"', given))):
                    filled = [re.sub(r"\$\w+", "2", word) for word in words]
                    yield pytest.param(filled, id=f"{script.name}:{words[0]}")
    for block in re.findall(r"```(?:text|sh)\n(.*?)```", (ROOT / "docs" / "cluster.md").read_text("utf-8"), re.S):
        for line in lines_of(block):
            for words in sfumato_words(shlex.split(line, comments=True)):
                yield pytest.param(words, id=f"cluster.md:{' '.join(words)[:40]}")


@pytest.mark.parametrize("words", list(commands()))
def test_every_command_is_one_that_there_is(words: list[str], monkeypatch: pytest.MonkeyPatch):
    """The command's own parser reads it; nothing is run."""
    assert words[0] in COMMANDS
    module, found = import_module(f"sfumato.cli.{words[0]}"), []
    parse = module.parse

    def only_parse(cls: type, *args: Any) -> Any:
        found.append(parse(cls, *args))
        raise StopIteration

    monkeypatch.setattr(module, "parse", only_parse)
    with pytest.raises(StopIteration):
        module.run(words[1:], None)
    settings = getattr(found[0], "settings", {})
    if isinstance(settings, Mapping):  # of a recipe
        load_recipe(str(ROOT / "recipes" / "quick.toml"), settings)


@pytest.mark.parametrize("script", SLURM, ids=lambda path: path.name)
def test_scripts_for_slurm(script: Path):
    text = script.read_text("utf-8")
    for checker in (["bash", "-n"], ["shellcheck", "--exclude=SC1091"]):
        if found := shutil.which(checker[0]):
            done = subprocess.run([found, *checker[1:], str(script)], capture_output=True, text=True)
            assert done.returncode == 0, done.stdout + done.stderr
    head, _, body = text.partition("set -euo pipefail")
    assert head.startswith("#!/bin/bash\n") and "\n#SBATCH --requeue" in head and "#SBATCH --signal=" in head
    assert "#SBATCH" not in body, "Slurm does not read those after the first command"
    assert "srun --cpus-per-task" in body, "srun does not take it from sbatch (Slurm 22.05 and newer)"


@pytest.mark.parametrize("manifest", list(MANIFESTS.values()), ids=list(MANIFESTS))
def test_manifests(manifest: dict[str, Any]):
    assert manifest["apiVersion"] == VERSIONS[manifest["kind"]]
    if manifest["kind"] != "Namespace":
        assert manifest["metadata"]["namespace"] == "sfumato"
    for pod in pods(manifest):
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"]
        volumes = {volume["name"]: volume for volume in pod.get("volumes", ())}
        claimed = {claim["metadata"]["name"] for claims in below(manifest, "volumeClaimTemplates") for claim in claims}
        for container in pod["containers"]:
            assert not container["securityContext"]["allowPrivilegeEscalation"]
            assert {"requests", "limits"} <= container["resources"].keys()
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes.keys() | claimed
        used = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}
        assert volumes.keys() <= used


def test_names_that_manifests_share():
    whole = list(MANIFESTS.values())
    images = set(below(whole, "image"))
    assert images == {"registry.example/sfumato-cluster:latest", "postgres:17"}
    said = (DEPLOY / "cluster.Dockerfile").read_text("utf-8")
    assert "-t registry.example/sfumato-cluster ." in said
    claims = {m["metadata"]["name"] for m in whole if m["kind"] == "PersistentVolumeClaim"}
    assert set(below(whole, "claimName")) == claims
    secrets = {ref["name"] for ref in below(whole, "secretKeyRef")} | set(below(whole, "secretName"))
    maps = {ref["name"] for ref in below(whole, "configMap")}
    assert secrets | maps == MADE_BY_HAND
    text = "".join(path.read_text("utf-8") for path in (DEPLOY / "kubernetes").glob("*.yaml"))
    for name in MADE_BY_HAND - {"sfumato-tls"}:
        assert re.search(rf"create (secret generic|configmap) {name} ", text), f"how {name} is made"
    services = {m["metadata"]["name"] for m in whole if m["kind"] == "Service"}
    services.add(MANIFESTS["serve-rayservice"]["metadata"]["name"] + "-serve-svc")  # made by KubeRay
    wanted = {backend["service"]["name"] for backend in below(whole, "backend")}
    assert wanted <= services and "@postgresql/" in text


def test_jobs_meet_at_the_first_pod():
    job = MANIFESTS["train-jobset-jobset"]
    (group,) = job["spec"]["replicatedJobs"]
    spec = group["template"]["spec"]
    args = spec["template"]["spec"]["containers"][0]["args"]
    nodes = spec["parallelism"]
    assert spec["completions"] == nodes and f"--nnodes={nodes}" in args
    name = job["metadata"]["name"]
    assert f"--rdzv-endpoint={name}-{group['name']}-0-0.{name}:29500" in args
    operator = MANIFESTS["train-pytorchjob-pytorchjob"]["spec"]
    worker = operator["pytorchReplicaSpecs"]["Worker"]
    assert operator["elasticPolicy"]["minReplicas"] == operator["elasticPolicy"]["maxReplicas"] == worker["replicas"]
    assert [container["name"] for container in worker["template"]["spec"]["containers"]] == ["pytorch"]


@pytest.mark.parametrize("kind", ["train-jobset-jobset", "train-pytorchjob-pytorchjob"])
def test_training_has_time_to_save(kind: str):
    (pod,) = pods(MANIFESTS[kind])
    environment = {entry["name"]: entry["value"] for entry in pod["containers"][0]["env"]}
    assert int(environment["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"]) < pod["terminationGracePeriodSeconds"]
    script = (DEPLOY / "slurm" / "train.sbatch").read_text("utf-8")
    seconds = re.findall(r"(?:USR1@|SHUTDOWN_TIMEOUT=)(\d+)", script)
    assert int(seconds[1]) < int(seconds[0])


@pytest.mark.parametrize("kind", ["serve-rayservice", "bulk-rayjob"])
def test_ray_has_the_version_of_the_image(kind: str):
    (version,) = below(MANIFESTS[kind], "rayVersion")
    assert f"ray=={version}\n" in (ROOT / "constraints.txt").read_text("utf-8")


def test_ray_serve_gets_flags_of_the_server():
    manifest = MANIFESTS["serve-rayservice"]
    (application,) = yaml.safe_load(manifest["spec"]["serveConfigV2"])["applications"]
    module, _, name = application["import_path"].partition(":")
    assert callable(getattr(import_module(module), name))
    serve = import_module("sfumato.cli.serve")
    assert application["args"].keys() <= {f.name for f in fields(serve.Options)}
    (group,) = manifest["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    assert application["args"]["replicas"] == f"{group['minReplicas']}:{group['maxReplicas']}"
    mounted = {mount["mountPath"] for mounts in below(manifest, "volumeMounts") for mount in mounts}
    assert str(Path(application["args"]["api_key_file"]).parent) in mounted
