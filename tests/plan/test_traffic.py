"""What is sent: by hand for small numbers, and what must hold for all."""

import pytest

from sfumato.plan.cluster import Cluster, Share
from sfumato.plan.traffic import Weights, seconds, sent
from sfumato.train.devices import NVLINK4, Device

WEIGHTS = Weights(layers=800, others=200, matrices=700, precision=2)
DEVICE = Device("some", "some", 1e15, 80e9, 3e12, NVLINK4)


def total(share: Share, **how: str) -> float:
    return sum(sent(WEIGHTS, share, **how).values())


def test_one_process_sends_nothing() -> None:
    assert total(Share(1, 1, 4, 8)) == 0


def test_copies_send_their_gradients_once_a_step() -> None:
    assert sent(WEIGHTS, Share(4, 1, 4, 8))["all-reduce"] == 2 * 3 / 4 * 1000 * 4 == total(Share(4, 1, 4, 1))


def test_shards_send_in_every_forward() -> None:
    once = sent(WEIGHTS, Share(4, 4, 1, 1))
    assert once["all-gather, forward"] == 3 / 4 * (800 * 2 + 200 * 4)
    assert once["all-gather, backward"] == 3 / 4 * 800 * 2  # what is outside the layers is there already
    assert once["reduce-scatter"] == 3 / 4 * 1000 * 4
    assert once["exchange"] == 2 * 3 / 4 * 700 * 2 / 4
    assert once["all-reduce"] == 0
    thrice = sent(WEIGHTS, Share(4, 4, 1, 3))
    assert all(thrice[name] == (1 if name == "exchange" else 3) * once[name] for name in once)


def test_gloo_does_an_all_reduce_for_a_reduce_scatter() -> None:
    share = Share(4, 4, 1, 1)
    assert sent(WEIGHTS, share, "gloo")["reduce-scatter"] == 2 * sent(WEIGHTS, share)["reduce-scatter"]


def test_groups_of_shards_send_between_each_other_what_they_hold() -> None:
    both = sent(WEIGHTS, Share(8, 4, 1, 2))
    assert both["all-reduce"] == 2 * 2 * 1 / 2 * 1000 * 4 / 4
    assert both["reduce-scatter"] == sent(WEIGHTS, Share(4, 4, 1, 2))["reduce-scatter"]


def test_within_a_machine_links_are_fast() -> None:
    cluster = Cluster(DEVICE, 16, per_machine=8, network=50e9)
    assert (cluster.rate(8), cluster.rate(16), cluster.rate(2, apart=8)) == (NVLINK4, 50e9, 50e9)
    share = Share(16, 8, 1, 1)
    parts = sent(WEIGHTS, share)
    across = parts.pop("all-reduce")
    expected = sum(parts.values()) / NVLINK4 + across / 50e9
    assert seconds(sent(WEIGHTS, share), share, cluster) == pytest.approx(expected)
