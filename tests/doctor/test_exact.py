import pytest

from sfumato.doctor.exact import bound_and_entropy, oracle


@pytest.mark.parametrize("seed", [1, 2])
def test_the_bound_of_an_exact_denoiser_is_the_entropy_and_that_of_another_lies_above(seed: int):
    bound, entropy = bound_and_entropy(seed)
    assert bound == pytest.approx(entropy, abs=1e-6)
    assert bound_and_entropy(seed, mistake=0.1)[0] > entropy + 1e-4


def test_it_is_told():
    assert [finding.verdict for finding in oracle()] == ["ok"]
