import pytest
import torch

from sfumato.evaluate import probe, retrieval

TEXTS = [f"text {n}" for n in range(2000)]


def features(spread: float) -> tuple[torch.Tensor, list[str]]:
    """Labels that one direction tells, with noise of this spread in all of them."""
    generator = torch.Generator().manual_seed(1)
    label_N = torch.randint(3, (2000,), generator=generator)
    found_ND = spread * torch.randn(2000, 8, generator=generator)
    found_ND[torch.arange(2000), label_N] += 1
    return found_ND, [f"kind {label}" for label in label_N.tolist()]


def test_a_probe_finds_what_the_features_tell_and_no_more():
    clear, noisy, nothing = (probe(*features(spread), TEXTS) for spread in (0.1, 0.6, 1e9))
    assert clear.accuracy == 1.0 and clear.labels == ("kind 0", "kind 1", "kind 2")
    assert 0.7 < noisy.accuracy < 0.95
    assert abs(nothing.accuracy - 1 / 3) < 4 * nothing.stderr + 0.02
    assert clear.train + clear.test < 2000 and 0.15 < clear.test / 2000 < 0.25
    assert 0.3 < clear.majority < 0.4


def test_a_probe_has_the_accuracy_of_the_best_rule():
    """Two labels at +-1 with noise of spread 1: the sign is right in 84 % of the cases."""
    generator = torch.Generator().manual_seed(2)
    sign_N = torch.randint(2, (2000,), generator=generator) * 2 - 1
    noise_N1 = torch.randn(2000, 1, generator=generator)
    found = probe(sign_N[:, None] + noise_N1, [str(sign) for sign in sign_N.tolist()], TEXTS)
    assert abs(found.accuracy - 0.8413) < 3 * found.stderr


def test_the_split_depends_on_the_texts_alone():
    found_ND, labels = features(0.6)
    order = torch.randperm(2000, generator=torch.Generator().manual_seed(3)).tolist()
    again = probe(found_ND[order], [labels[i] for i in order], [TEXTS[i] for i in order])
    assert again == probe(found_ND, labels, TEXTS)


def test_a_query_finds_its_document_or_not():
    eye = torch.eye(20)
    assert retrieval(eye, eye).recall_at_1 == 1 == retrieval(eye, eye).reciprocal_rank
    other = retrieval(eye, eye.roll(1, dims=0))
    assert other.recall_at_1 == other.recall_at_10 == 0
    half = torch.cat((eye[:10], torch.zeros(10, 20)))  # of equals the own one comes last
    assert retrieval(half, eye).recall_at_1 == 0.5
    assert retrieval(half, eye).reciprocal_rank == pytest.approx(0.5 + 0.5 / 20)


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(ValueError, match="2 labels and 20 texts, got 1 and 30"):
        probe(torch.zeros(30, 2), ["a"] * 30, TEXTS[:30])
    with pytest.raises(ValueError, match="at least 2 queries"):
        retrieval(torch.zeros(1, 2), torch.zeros(1, 2))
