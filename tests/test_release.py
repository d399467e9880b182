"""What surrounds a release holds together: versions, pins, licences, the audit, the workflow of the public host."""

import json
import re
import runpy
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import sfumato

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
FOR_USERS = EXTRAS.keys() - {"dev", "docs"}
LICENCES = runpy.run_path(str(ROOT / "tools" / "licences.py"))
AUDIT = runpy.run_path(str(ROOT / "tools" / "audit.py"))
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")


def pinned(name: str) -> dict[str, str]:
    return LICENCES["pinned"]((ROOT / name).read_text("utf-8"))


def wanted(extras) -> dict[str, Requirement]:
    lines = [*PROJECT["dependencies"], *(line for extra in extras for line in EXTRAS[extra])]
    return {str(canonicalize_name(one.name)): one for one in map(Requirement, lines)}


def test_constraints_pin_what_make_test_installs():
    pins = pinned("constraints.txt")
    for name, one in wanted(("dev", "train", "serve")).items():
        assert name in pins, f"{name} is in pyproject.toml; add the version that the tests ran with to constraints.txt"
        assert one.specifier.contains(pins[name]), name
    assert list(pins) == sorted(pins)


def test_the_oldest_constraints_are_the_lower_bounds():
    pins = pinned("constraints-oldest.txt")
    for name, one in wanted(FOR_USERS).items():
        lowest = [part.version for part in one.specifier if part.operator == ">="]
        assert lowest, f"{name} has no lower bound in pyproject.toml"
        assert Version(pins[name]) == Version(lowest[0]), f"{name}: {lowest[0]} is allowed, {pins[name]} is tested"


def test_the_same_package_has_the_same_range_everywhere():
    ranges: dict[str, set[str]] = {}
    for line in [*PROJECT["dependencies"], *(line for lines in EXTRAS.values() for line in lines)]:
        ranges.setdefault(canonicalize_name(Requirement(line).name), set()).add(str(Requirement(line).specifier))
    assert {name: found for name, found in ranges.items() if len(found) > 1} == {}


def test_the_page_of_licences_is_current():
    rows = re.findall(r"^\| (\S+) \| (\S+) \| (.+) \|$", (ROOT / "docs" / "licences.md").read_text("utf-8"), re.M)
    listed = {name: version for name, version, _ in rows if name != "package"}
    assert listed == pinned("constraints.txt"), "run `make licences`"
    assert [name for name, _, licence in rows if licence == "unknown"] == []


def test_nothing_that_is_needed_has_a_licence_that_is_denied():
    needed = LICENCES["needed"]("sfumato")
    assert {"torch", "numpy", "tokenizers", "markupsafe"} <= needed and "pytest" not in needed
    needed &= pinned("constraints.txt").keys()  # which leaves out what PyTorch brings along for a GPU
    assert LICENCES["denied"]({name: LICENCES["licence"](name) for name in needed}) == []


@pytest.mark.parametrize(
    ("licence", "is_denied"),
    [
        ("MIT", False),
        ("LGPL-3.0-only", False),
        ("GNU Lesser General Public License v3 (LGPLv3)", False),
        ("GPL-3.0-or-later", True),
        ("AGPL-3.0", True),
        ("GNU Affero General Public License v3", True),
        ("GNU General Public License v2 (GPLv2)", True),
        ("GPL-2.0 OR MIT", False),
        ("unknown", True),
    ],
)
def test_which_licences_are_denied(licence: str, is_denied: bool):
    assert LICENCES["denied"]({"it": licence}) == ["it"] * is_denied


def report(*packages: dict) -> str:
    return json.dumps({"dependencies": list(packages)})


CLEAN = {"name": "a", "version": "1", "vulns": []}
BAD = {"name": "b", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["3"]}]}
SKIPPED = {"name": "c", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("said", "count", "code", "line"),
    [
        (report(CLEAN), 1, 0, "1 packages looked up, no vulnerability known"),
        (report(CLEAN, BAD), 2, 1, "b 2: PYSEC-1, repaired in 3"),
        (report(CLEAN, SKIPPED), 2, 2, "NOT AUDITED: nothing is known about 1 of 2 packages; the first: not found"),
        (report(CLEAN), 2, 2, "NOT AUDITED: nothing is known about 1 of 2 packages; the first: left out"),
        ("", 2, 2, "NOT AUDITED: pip-audit gave no report, so nothing is known about any package"),
        ("no connection", 2, 2, "NOT AUDITED: pip-audit gave no report, so nothing is known about any package"),
    ],
)
def test_an_audit_that_did_not_look_is_never_good_news(said: str, count: int, code: int, line: str):
    assert AUDIT["verdict"](said, count) == (code, [line])


def test_the_workflow_runs_the_targets_of_the_makefile():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text("utf-8"))
    targets = set(re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.M)[0].split())
    assert workflow["permissions"] == {"contents": "read"}
    asked: set[str] = set()
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] and "permissions" not in job
        matrix = job["strategy"]["matrix"]
        asked |= {*matrix.get("target", ()), *(one["target"] for one in matrix.get("include", ()))}
        for step in job["steps"]:
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", step.get("uses", f"a/b@{'0' * 40}")), "pinned by commit"
            assert step.get("run", "make ${{ matrix.target }}") == "make ${{ matrix.target }}"
    assert asked == targets - {"help", "demo", "dist", "licences", "clean"}


def test_every_target_is_explained_and_defined():
    for target in re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.M)[0].split():
        assert re.search(rf"^{target}:", MAKEFILE, re.M), target
        assert target == "help" or f'echo "make {target} ' in MAKEFILE, target


def test_the_version_is_written_once_and_told_the_same_everywhere():
    assert "version" in PROJECT["dynamic"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == sfumato.__version__ and citation["license"] == PROJECT["license"]


def test_the_changelog_names_versions_newest_first():
    titles = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)
    found = [re.fullmatch(r"(\d+\.\d+\.\d+) \((unreleased|\d{4}-\d\d-\d\d)\)", title) for title in titles]
    assert all(found), titles
    versions = [tuple(map(int, one[1].split("."))) for one in found if one]
    assert versions == sorted(versions, reverse=True) and ".".join(map(str, versions[0])) == sfumato.__version__
