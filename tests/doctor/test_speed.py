import torch

from sfumato.doctor.speed import chosen_threads, product_rate, seconds


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


def test_a_product_has_a_rate():
    assert product_rate(torch.float32, torch.device("cpu"), 32) > 0
