import torch

from sfumato.doctor.speed import chosen_threads, rated, seconds


def test_threads_that_are_much_slower_than_the_best_are_a_warning():
    finding = chosen_threads({1: 0.010, 2: 0.006, 64: 0.050}, taken=64)
    assert finding.verdict == "warn" and "2 threads are fastest" in finding.advice
    assert "--train.threads 2" in finding.advice and finding.figures["best"] == 2


def test_threads_that_are_as_good_as_the_best_are_not():
    assert chosen_threads({1: 0.010, 2: 0.009}, taken=1).verdict == "ok"


def test_the_first_call_of_a_measurement_does_not_count():
    calls = []
    assert 0 < seconds(lambda: calls.append(1), torch.device("cpu"), period=0) < 1
    assert len(calls) == 2


def test_a_rate_stands_beside_what_the_card_is_sold_with():
    assert rated("bfloat16", 8e13, None).found == "80.0 TFLOP/s"
    good, bad = rated("bfloat16", 8e13, 1e14), rated("bfloat16", 2e13, 1e14)
    assert good.verdict == "ok" and good.found == "80.0 TFLOP/s, 80% of the 100.0 TFLOP/s that are published"
    assert bad.verdict == "warn" and "20%" in bad.found
