"""A model without its network: what a server needs to prepare requests."""

import shutil
from pathlib import Path

import pytest

from sfumato.config import ConfigError
from sfumato.model.bundle import BundleError, find_bundle
from sfumato.sample.front import Front
from sfumato.sample.language_model import LanguageModel


@pytest.fixture(scope="module")
def front() -> Front:
    return Front.load("tiny")


def test_it_reads_no_weights(tmp_path: Path):
    folder = tmp_path / "model"
    shutil.copytree(find_bundle("tiny"), folder)
    for file in folder.glob("model*.safetensors"):
        file.write_bytes(b"not weights")
    assert Front.load(folder).context == 256


def test_the_version_changes_with_the_weights_and_the_configuration(tmp_path: Path):
    folder = tmp_path / "model"
    shutil.copytree(find_bundle("tiny"), folder)
    first = Front.load(folder).version()
    assert first == Front.load("tiny").version() and len(first) == 12
    file = next(folder.glob("model*.safetensors"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    second = Front.load(folder).version()
    config = folder / "config.json"
    config.write_text(config.read_text() + " ")
    assert len({first, second, Front.load(folder).version()}) == 3


def test_steps_can_be_given_as_tokens_a_step(front: Front):
    assert front.plan({"tokens_per_step": 3}).steps(10) == 4
    assert front.plan({"tokens_per_step": 1}).steps(10) == 10
    assert front.plan({"tokens_per_step": 0.5}).steps(10) == 20
    assert front.plan({"tokens_per_step": 3, "steps": 7}).steps(10) == 7


def test_a_planned_request_is_what_the_model_runs(front: Front):
    """The same row through `generate` and as a request of one's own."""
    model = LanguageModel.load("tiny", "cpu", "float32")
    plan = front.plan({"steps": 6, "temperature": 0.5})
    row = front.row("Once upon a time", 12)
    request = plan.request(row.tokens, row.editable, steps=plan.steps(row.room), seed=3)
    from sfumato.sample.decoder import Decoder

    decoder = Decoder(model.denoiser, model.process, model.layout, end_id=1, device="cpu")
    decoder.add(request)
    events = []
    while decoder.busy:
        events += decoder.step()
    written = model.generate("Once upon a time", max_tokens=12, steps=6, temperature=0.5, seed=3)
    assert events[-1].tokens == written.tokens


def test_holes_get_the_largest_block_unless_one_is_chosen(front: Front):
    assert front.plan({}, in_sight=True).block == 256
    assert front.plan({"block": 8}, in_sight=True).block == 8
    assert front.plan({}).block == 16


def test_mistakes_are_one_line(front: Front, tmp_path: Path):
    with pytest.raises(ConfigError, match="block: got 3, this model was trained with blocks of 4 to 256"):
        front.plan({"block": 3})
    with pytest.raises(ConfigError, match="did you mean"):
        front.plan({"sampler": "confidense"})
    with pytest.raises(ValueError, match="max_tokens: expected a whole number, got True"):
        front.row("a", True)
    with pytest.raises(ValueError, match="too long"):
        front.row("a", 300, windows=False)
    with pytest.raises(BundleError, match="no such model"):
        Front.load(tmp_path / "nowhere")
