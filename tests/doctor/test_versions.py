import pytest

from sfumato.doctor.versions import compare, interpreter, packages, satisfies, torch_itself


@pytest.mark.parametrize(
    ("version", "wanted", "good"),
    [
        ("2.13.0+cpu", "<2.14,>=2.11", True),
        ("2.14.0", "<2.14,>=2.11", False),
        ("2.11.0", ">=2.11", True),
        ("2.9", ">=2.11", False),
        ("0.22.2", ">=0.22.2", True),
        ("0.22", ">=0.22.2", False),
        ("3", "==3.0", True),
        ("1.2", "!=1.2", False),
        ("1.2", "~=1.1", True),  # not understood
        ("1.2", "", True),
    ],
)
def test_whether_a_version_is_in_a_range(version: str, wanted: str, good: bool):
    assert satisfies(version, wanted) == good


def test_missing_extras_come_with_the_command_that_brings_them():
    lines = ["torch<99,>=1", 'pytest>=8; extra == "test"', 'zzz; extra == "dev"']
    lines.append('no-such-package[x]>=2; extra == "cluster"')
    found = {finding.what: finding for finding in compare(lines)}
    assert set(found) == {"packages", "extra test", "extra cluster"}
    assert found["packages"].found.startswith("torch 2.") and found["extra test"].found.startswith("pytest ")
    assert "pip install 'sfumato[cluster]'" in found["extra cluster"].found
    assert {finding.verdict for finding in found.values()} == {"ok"}


def test_a_version_out_of_range_is_named_with_what_repairs_it():
    (wrong, _) = compare(["torch<2"])
    assert wrong.verdict == "warn" and wrong.what == "torch" and wrong.advice == "pip install 'torch<2'"


def test_a_package_that_is_needed_and_missing_fails():
    assert next(compare(["no-such-package>=2"])).verdict == "fail"


def test_what_runs_these_tests_is_good():
    found = [*interpreter(), *torch_itself(), *packages()]
    assert all(finding.verdict != "fail" for finding in found)
    assert [finding.what for finding in found[:4]] == ["Python", "sfumato", "torch", "packages"]
