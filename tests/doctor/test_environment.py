import pytest

from sfumato.doctor.environment import open_files, variables

TORCHRUN = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "node0", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    ("environ", "what", "verdict"),
    [
        ({"OMP_NUM_THREADS": "2"}, "OMP_NUM_THREADS", "ok"),
        ({"OMP_NUM_THREADS": "64"}, "OMP_NUM_THREADS", "warn"),
        ({"OMP_NUM_THREADS": "many"}, "OMP_NUM_THREADS", "warn"),
        ({"CUDA_VISIBLE_DEVICES": ""}, "CUDA_VISIBLE_DEVICES", "warn"),
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, "CUDA_VISIBLE_DEVICES", "ok"),
        ({"CUDA_LAUNCH_BLOCKING": "1"}, "CUDA_LAUNCH_BLOCKING", "warn"),
        ({"NCCL_SOCKET_IFNAME": "eth0"}, "NCCL_SOCKET_IFNAME", "ok"),
        ({"NCCL_P2P_DISABLE": "1"}, "NCCL_P2P_DISABLE", "warn"),
        (TORCHRUN, "torchrun", "ok"),
        ({**TORCHRUN, "RANK": "4"}, "torchrun", "fail"),
        ({**TORCHRUN, "RANK": "first"}, "torchrun", "fail"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "torchrun", "fail"),
    ],
)
def test_each_variable_is_judged(environ: dict[str, str], what: str, verdict: str):
    (finding,) = variables(environ, cores=2)
    assert (finding.what, finding.verdict) == (what, verdict)
    assert bool(finding.advice) == (verdict != "ok")


def test_too_many_threads_are_answered_with_the_right_number():
    (finding,) = variables({"OMP_NUM_THREADS": "64"}, cores=2.5)
    assert "set it to 2" in finding.advice


@pytest.mark.parametrize("environ", [{}, {"HOME": "/", "MASTER_ADDR": "x"}, {"CUDA_LAUNCH_BLOCKING": "0"}])
def test_nothing_is_said_of_variables_that_change_nothing(environ: dict[str, str]):
    assert list(variables(environ, cores=2)) == []


def test_few_open_files_are_a_warning():
    pytest.importorskip("resource")
    (few,) = open_files(least=10**12)
    assert few.verdict in ("warn", "ok") and (few.verdict == "ok") == (few.found == "unlimited")
