"""The files in deploy are understood by the programs that they are for, as far as those are here."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="these programs run on Linux")


def program(name: str) -> str:
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin")
    return found or pytest.skip(f"{name} is not installed")


def understood(*command: object) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_nginx_understands_its_file(tmp_path: Path):
    nginx, openssl = program("nginx"), program("openssl")
    names = ("-keyout", tmp_path / "privkey.pem", "-out", tmp_path / "fullchain.pem")
    understood(openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", *names)
    text = (DEPLOY / "nginx.conf").read_text().replace("/etc/ssl/sfumato", str(tmp_path))
    (tmp_path / "sfumato.conf").write_text(
        re.sub(r"(listen (?:\[::\]:)?)(?=80|443)", r"\g<1>1", text)
    )  # no root needed
    whole = "pid pid; error_log stderr; events {} http { access_log off; include sfumato.conf; }"
    (tmp_path / "nginx.conf").write_text(whole)
    understood(nginx, "-t", "-p", tmp_path, "-c", tmp_path / "nginx.conf")


def test_systemd_understands_its_file(tmp_path: Path):
    unit = (DEPLOY / "sfumato.service").read_text()
    (tmp_path / "sfumato.service").write_text(unit.replace("/opt/sfumato/bin/sfumato", sys.executable))
    assert understood(program("systemd-analyze"), "verify", tmp_path / "sfumato.service") == ""


@pytest.mark.parametrize("file", ["Dockerfile", "cluster.Dockerfile"])
def test_the_image_gets_what_its_build_copies_and_no_more(file: str):
    lines = (DEPLOY / f"{file}.dockerignore").read_text().splitlines()
    allowed = {line[1:] for line in lines if line.startswith("!")}
    text = (DEPLOY / file).read_text()
    copies = re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.M)
    assert {name.removeprefix("./") for line in copies for name in line.split()} == allowed
    assert lines[1] == "*" and all((ROOT / name).exists() for name in allowed)


@pytest.mark.parametrize("file, wanted", [("Dockerfile", "psycopg"), ("cluster.Dockerfile", "ray")])
def test_the_image_gets_the_packages_of_the_project(file: str, wanted: str, tmp_path: Path):
    code = re.search(r"^RUN (python -c .*? > )requirements.txt", (DEPLOY / file).read_text(), re.M | re.S)
    assert code
    script = code[1].replace("\\\n", "").replace("python", sys.executable, 1) + str(tmp_path / "requirements")
    understood("sh", "-c", f"cd {ROOT} && {script}")
    names = {re.split(r"[^a-z]", line)[0] for line in (tmp_path / "requirements").read_text().splitlines()}
    assert {"torch", "fastapi", wanted} <= names


def test_compose_has_no_password_of_its_own():
    yaml = pytest.importorskip("yaml")
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    said = [service["environment"] for service in compose["services"].values()]
    secrets = [value for values in said for name, value in values.items() if "PASSWORD" in name]
    assert len(secrets) == 2 and all(value.startswith("${POSTGRES_PASSWORD:?") for value in secrets)
    assert (ROOT / "deploy" / compose["services"]["server"]["build"]["context"]).resolve() == ROOT
    database = compose["services"]["server"]["depends_on"]
    assert database == {"database": {"condition": "service_healthy"}} and "ports" not in compose["services"]["database"]
