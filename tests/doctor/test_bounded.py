import os
import signal
import sys
import time
from pathlib import Path

import pytest

from sfumato.doctor.bounded import Child, alone, examine
from sfumato.doctor.finding import Check

HERE = Path(__file__).parent
ENVIRON = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *filter(None, sys.path)])}


def check(name: str, /, limit: float = 30, **arguments: object) -> Check:
    return Check("section", name, f"ailing:{name}", limit, arguments)


def test_what_a_check_prints_is_no_finding_and_its_arguments_arrive():
    ((_, finding),) = examine([check("well", word="söfter")], ENVIRON)
    assert (finding.what, finding.found, finding.verdict) == ("well", "söfter", "ok")


def test_checks_share_a_process_for_as_long_as_it_lives():
    found = [finding for _, finding in examine([check("well"), check("well"), check("raises")], ENVIRON)]
    assert found[0].figures == found[1].figures
    assert [finding.verdict for finding in found[2:]] == ["ok", "fail"]
    assert found[3].found == "RuntimeError: two lines"


def test_a_hang_ends_at_the_limit_with_all_that_it_has_started():
    begin = time.monotonic()
    sleeper, hang, after = (finding for _, finding in examine([check("hangs", 2), check("well")], ENVIRON))
    assert time.monotonic() - begin < 30
    assert (hang.what, hang.verdict, hang.found) == ("hangs", "fail", "no answer within 2 s")
    assert after.verdict == "ok"
    assert not running(sleeper.figures["pid"])


def running(pid: int) -> bool:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        if Path(f"/proc/{pid}/stat").exists() and Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
            return False  # its new parent has not looked yet
        time.sleep(0.05)
    return True


@pytest.mark.parametrize(
    ("name", "advice"), [("SIGKILL", "memory ran out"), ("SIGILL", "lacks instructions"), ("SIGABRT", "reinstall")]
)
def test_a_crash_is_a_finding_and_the_next_check_runs(name: str, advice: str):
    crash, after = (finding for _, finding in examine([check("dies", name=name), check("well")], ENVIRON))
    assert crash.verdict == "fail" and crash.found == f"killed by {name}: the last words" and advice in crash.advice
    assert after.verdict == "ok"


def test_a_check_that_does_not_exist_fails_alone():
    (_, finding), (_, after) = examine([check("missing"), check("well")], ENVIRON)
    assert finding.verdict == "fail" and "missing" in finding.found and after.verdict == "ok"


def test_closing_leaves_no_process_behind():
    with Child(ENVIRON) as child:
        ((pid),) = (finding.figures["pid"] for finding in child.run(check("well")))
        os.kill(pid, signal.SIGSTOP)  # not even one that does not listen
    assert not child.alive and not running(pid)


def test_a_process_alone_knows_nothing_of_ranks():
    ours = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "TORCHELASTIC_RUN_ID": "x", "LOCAL_RANK": "1"}
    assert alone({**ours, "HOME": "/", "OMP_NUM_THREADS": "1"}) == {"HOME": "/", "OMP_NUM_THREADS": "1"}
