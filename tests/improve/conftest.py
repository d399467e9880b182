"""A tiny model that has learned to answer, in a registry, and people who tell what they think of its answers."""

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from pilot import ANSWERS, WORDS, recipe, talk

from sfumato.config import to_toml
from sfumato.sample.front import Front
from sfumato.store.feedback import FeedbackStore
from sfumato.store.records import Feedback, Response
from sfumato.store.registry import Registry
from sfumato.train.loop import train
from sfumato.tune.methods import tune


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """talk.jsonl, and model/, which has learned to answer as it does; do not write into it."""
    home = tmp_path_factory.mktemp("improve")
    (home / "words.txt").write_text(WORDS * 20)
    (home / "talk.jsonl").write_text(talk((f"{c} {i}", a) for i in range(60) for c, a in ANSWERS.items()))
    init, _ = train(recipe(home / "words.txt", home, steps=1), home / "base")
    folder, _ = tune(recipe(home / "talk.jsonl", home, steps=120, init=str(init)), home / "run")
    assert folder is not None
    folder.rename(home / "model")
    return home


@pytest.fixture
def registry(home: Path, tmp_path: Path) -> Registry:
    """A registry in which the model is current."""
    registry = Registry(tmp_path / "pilot", create=True)
    model = home / "model"
    version = registry.add(model, Front.load(model).version(), note="the first one")
    registry.promote(version, force=True, reason="the first one")
    return registry


@pytest.fixture
def improving(home: Path, tmp_path: Path) -> Path:
    """A recipe for candidates."""
    path = tmp_path / "improve.toml"
    path.write_text(to_toml(recipe(home / "talk.jsonl", home, steps=40)))
    return path


@pytest.fixture
def give(tmp_path: Path) -> Callable[..., Path]:
    """Store corrections of what the model answered, as (prompt, correction); returns the database."""
    path = tmp_path / "feedback.db"

    def store(corrections: Iterable[tuple[str, str]], owner: str = "ada") -> Path:
        with FeedbackStore(str(path)) as database:
            for i, (asked, correction) in enumerate(corrections):
                response = Response(
                    id=f"{owner}-{i}",
                    kind="chat",
                    model="pilot",
                    model_version="0f",
                    seed=1,
                    prompt=[{"role": "user", "content": asked}],
                    completion="b b b",
                )
                database.add(
                    Feedback(response_id=response.id, kind="correction", correction=correction, owner=owner), [response]
                )
        return path

    return store
