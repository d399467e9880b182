import io
import json
import os
from pathlib import Path

import pytest

from sfumato.cli import main
from sfumato.cli.doctor import Page
from sfumato.doctor.environment import RANK
from sfumato.doctor.examination import examination, together
from sfumato.doctor.finding import Check, Finding


def test_a_quick_look_as_json_with_something_that_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "file").write_text("")
    code = main(["doctor", "--quick", "--json", "--runs", str(tmp_path / "file"), "--cache", str(tmp_path)])
    told = json.loads(capsys.readouterr().out)
    assert [one["what"] for one in told["findings"] if one["verdict"] == "fail"] == ["runs"]
    assert code == told["fail"] == 1
    assert {one["section"] for one in told["findings"]} == {"Software", "Hardware", "Environment", "Folders"}
    assert told["ok"] + told["warn"] + told["fail"] == len(told["findings"])
    assert all(one["advice"] for one in told["findings"] if one["verdict"] != "ok")


def test_who_is_only_called_a_rank_looks_all_the_same(tmp_path: Path):
    environ = {name: value for name, value in os.environ.items() if name not in RANK} | {"RANK": "1"}
    assert not together(environ) and together({**dict.fromkeys(RANK, "1"), "WORLD_SIZE": "2"})
    found = examination(environ, str(tmp_path), str(tmp_path), quick=True)
    assert next(found)[1].what == "Python"
    found.close()


def test_a_page_for_people():
    out = io.StringIO()
    with Page(out, as_json=False) as page:
        for section, finding in (
            ("Hardware", Finding("memory", "[8] GiB")),
            ("Hardware", Finding("/dev/shm", "64 MiB", "warn", "docker run --shm-size 8g")),
            ("Folders", Finding("runs", "a file", "fail", "name a folder")),
        ):
            check = Check(section, finding.what, "", 1)
            page.begun(check)
            page.show(check, finding)
    lines = [" ".join(line.split()) for line in out.getvalue().splitlines()]
    assert lines == [
        *("", "Hardware", "ok memory [8] GiB", "warn /dev/shm 64 MiB", "docker run --shm-size 8g"),
        *("", "Folders", "FAIL runs a file", "name a folder"),
    ]


def test_an_unknown_flag_is_one_line(refused):
    assert refused("doctor", "--fast").startswith("unknown flag --fast")
