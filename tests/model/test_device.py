import pytest
import torch

from sfumato.model.device import resolve_device, resolve_dtype

CPU = torch.device("cpu")


def test_auto_finds_a_device_that_works() -> None:
    assert torch.ones(2, device=resolve_device("auto")).sum().item() == 2
    assert resolve_device("cpu") == CPU


def test_an_unknown_device_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"^device: got 'tpu', expected auto, cpu, cuda or mps$"):
        resolve_device("tpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_device_that_is_not_there_is_refused_with_the_way_out() -> None:
    with pytest.raises(ValueError, match=r"^device: 'cuda' was asked for, but torch .* use --device cpu$"):
        resolve_device("cuda")


def test_a_named_precision_is_taken_at_its_word() -> None:
    assert resolve_dtype("float32", CPU) == torch.float32
    assert resolve_dtype("bfloat16", CPU) == torch.bfloat16


def test_an_unknown_precision_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"^dtype: got 'float16', expected auto, float32 or bfloat16$"):
        resolve_dtype("float16", CPU)


def test_auto_settles_on_a_precision() -> None:
    assert resolve_dtype("auto", CPU) in (torch.float32, torch.bfloat16)
