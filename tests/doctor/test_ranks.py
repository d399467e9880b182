import socket

import pytest

from sfumato.doctor.finding import MIB
from sfumato.doctor.ranks import among, slow_ranks
from sfumato.doctor.world import together

HOSTS = {rank: {"host": f"node{rank}", "flops": 1e12, "to_zero": 5e9 if rank else None} for rank in range(4)}


def test_two_processes_sum_a_tensor():
    (finding,) = together("two", "gloo", 2, patience=60)
    assert finding.verdict in ("ok", "warn"), finding
    assert finding.figures["ranks"] == 2 and finding.figures["hosts"] == 1 and finding.figures["latency"] > 0


@pytest.fixture
def rank_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    for name, value in {"RANK": "0", "WORLD_SIZE": "3", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)


def test_ranks_that_do_not_come_are_named(rank_zero: None):
    (finding,) = among("three", "gloo", patience=0.2, size=MIB)
    assert finding.verdict == "fail" and "1 of 3 ranks are here, missing: ranks 1, 2" in finding.found


def test_a_rank_that_finds_nobody_says_where_it_looked(rank_zero: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(ConnectionError, match=r"rank 1 on .* cannot reach 127.0.0.1:"):
        list(among("three", "gloo", patience=0.2, size=MIB))


def test_a_slow_rank_is_named():
    slow = {**HOSTS, 2: {**HOSTS[2], "flops": 3e11}}
    (finding,) = slow_ranks("ranks", slow)
    assert finding.verdict == "warn" and finding.found.startswith("rank 2 on node2: computes 300 GFLOP/s")


def test_a_slow_link_is_named():
    (finding,) = slow_ranks("ranks", {**HOSTS, 3: {**HOSTS[3], "to_zero": 1e8}})
    assert finding.found.startswith("rank 3 on node3: link to rank 0 100 MB/s, the others 5.0 GB/s")


def test_of_equal_ranks_nothing_is_said():
    assert list(slow_ranks("ranks", HOSTS)) == []
