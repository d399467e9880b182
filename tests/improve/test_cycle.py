"""The cycle from end to end, without a server: that is in test_service.py."""

import json
import random
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pilot import GOOD, recipe, talk

from sfumato.cli import main
from sfumato.config import LoraConfig, Recipe, Source
from sfumato.data.cache import digest
from sfumato.improve import cycle
from sfumato.improve.cycle import Wish
from sfumato.improve.dataset import Dataset, save
from sfumato.improve.gate import Rule
from sfumato.improve.items import Gathered, Item, gather
from sfumato.improve.measure import measure
from sfumato.model.bundle import Bundle
from sfumato.sample.front import Front
from sfumato.sample.language_model import LanguageModel
from sfumato.store.feedback import FeedbackStore
from sfumato.store.registry import Registry


@pytest.fixture
def improve(registry, improving, capsys) -> Callable[..., dict]:
    """Run the command; returns what it tells."""

    def run(feedback: Path, *words: object) -> dict:
        capsys.readouterr()
        flags = ["--registry", registry.folder, "--feedback", feedback, "--recipe", improving, "--tolerance", 0.1]
        assert main(["improve", *map(str, [*flags, *words]), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return run


def collected(path: Path, folder: Path) -> Dataset:
    with FeedbackStore(str(path)) as store:
        return save(gather(store.read()), folder, kind="chat")


def few(home: Path, **changes) -> Recipe:
    return replace(recipe(home / "talk.jsonl", home, steps=4, checkpoint_every=2), **changes)


@pytest.mark.slow
def test_good_feedback_is_promoted_and_learned_once(registry, give, improve):
    first = registry.current()
    outcome = improve(give(GOOD))
    assert outcome["status"] == "promoted" and registry.current().id == outcome["version"] != first.id
    version = registry.current()
    evidence = registry.evidence(version)
    assert version.parent == evidence["parent"] == first.id and version.dataset == evidence["dataset"]["digest"]
    assert evidence["passed"] and evidence["rule"]["tolerance"] == 0.1
    assert evidence["measured"]["wished"]["held-out answers"]["difference"] < -1
    assert evidence["measured"]["pairs"]["win_rate_new"] == 1.0
    assert evidence["dataset"]["feedback"] == len(GOOD) and evidence["stages"] == [
        {"name": "small", "method": "answers"}
    ]
    config = Front.load(registry.model(version)).config
    assert (config.sampler, config.chat) == (Front.load(registry.model(first)).config.sampler, config.chat)
    assert str(registry.folder.parent) not in json.dumps(evidence)
    assert improve(give([]))["status"] == "nothing"
    assert not list((registry.folder / "work").glob("cycles/*/candidate"))


@pytest.mark.slow
def test_poison_is_refused_by_how_much_it_forgets(registry, give, improve):
    first, chance = registry.current(), random.Random(1)
    asked = [f"{colour} {i}" for i in range(20) for colour in ("red", "blue", "green", "black")]
    garbage = [(said, "".join(chance.choices("abcdefguvw 0123456789", k=9))) for said in asked]
    outcome = improve(give(garbage))
    assert outcome["status"] == "refused" and registry.current() == first
    version = registry.find(outcome["version"])
    (text,) = registry.evidence(version)["measured"]["texts"].values()
    assert text["difference"] - 2 * text["stderr"] > 0.1
    assert outcome["reasons"][0].startswith("held-out text (small): ") and "+0.1000 is allowed" in outcome["reasons"][0]


def nobody(*_) -> dict:
    return {}


class Killed(Exception):
    pass


def kill_at(step: int):
    class Watcher:
        def started(self, *args):
            pass

        def stepped(self, record):
            if record["step"] == step:
                raise Killed

    return lambda recipe, out: {"watcher": Watcher()}


def test_a_cycle_that_is_killed_goes_on_to_the_same_candidate(home, registry, give, tmp_path):
    dataset = collected(give(GOOD), tmp_path / "datasets")
    wish = Wish((few(home),))
    whole = cycle.begin(registry, dataset, wish, tmp_path / "whole")
    expected = cycle.run(registry, whole, nobody, promote=False)
    assert expected.status in ("passed", "refused") and cycle.unfinished(tmp_path / "whole") is None

    work = tmp_path / "parts"
    assert cycle.unfinished(work) is None
    folder = cycle.begin(registry, dataset, wish, work)
    with pytest.raises(Killed):
        cycle.run(registry, folder, kill_at(3), promote=False)
    assert cycle.unfinished(work) == folder
    assert cycle.run(registry, folder, nobody, promote=False).version == expected.version
    assert cycle.unfinished(work) is None
    assert cycle.begin(registry, dataset, wish, work).name == "0002"


def test_a_cycle_that_is_killed_after_its_promotion_says_so(home, registry, give, tmp_path, monkeypatch):
    def killed(*_):
        raise Killed

    dataset = collected(give(GOOD), tmp_path / "datasets")
    wish = Wish((few(home),), rule=Rule(tolerance=9.0, confidence=0.5))
    folder = cycle.begin(registry, dataset, wish, tmp_path / "work")
    with monkeypatch.context() as patch:
        patch.setattr(cycle, "_end", killed)
        with pytest.raises(Killed):
            cycle.run(registry, folder, nobody)
    current = registry.current()
    assert current.parent
    outcome = cycle.run(registry, folder, nobody)
    assert (outcome.status, outcome.version) == ("promoted", current.id)


def test_a_cycle_that_cannot_be_carried_out_ends_and_its_feedback_is_still_new(home, registry, give, tmp_path):
    """Not tried again and again as it was planned: the recipe may have been the mistake."""
    work = tmp_path / "work"
    dataset = collected(give(GOOD), work / "datasets")
    wrong = replace(few(home), lora=LoraConfig(rank=4, targets=("nothing",)))
    folder = cycle.begin(registry, dataset, Wish((wrong,)), work)
    with pytest.raises(ValueError, match="nothing"):
        cycle.run(registry, folder, nobody)
    assert cycle.unfinished(work) is None and cycle.used(work) == (0, set())
    assert json.loads((folder / "result.json").read_text())["status"] == "failed"
    folder = cycle.begin(registry, dataset, Wish((few(home),)), work)
    assert cycle.run(registry, folder, nobody, promote=False).version
    assert cycle.used(work)[0] == len(GOOD)


def test_a_candidate_that_makes_no_numbers_is_refused_with_its_evidence(home, registry, give, tmp_path):
    dataset = collected(give(GOOD), tmp_path / "datasets")
    folder = cycle.begin(registry, dataset, Wish((few(home),)), tmp_path / "work")
    bundle = Bundle.load(registry.model(registry.current()))
    with torch.no_grad():
        next(p for p in bundle.denoiser.parameters() if p.ndim == 2).fill_(1e38)
    bundle.save(folder / "candidate")
    outcome = cycle.run(registry, folder, nobody)
    assert outcome.status == "refused"
    evidence = registry.evidence(registry.find(outcome.version))
    assert evidence["passed"] is False and evidence["measured"]["texts"]["held-out text (small)"]["new"] is None


def test_much_said_about_one_prompt_is_one_piece_of_evidence(home, registry, tmp_path):
    learned, held = sorted(["white", "pink"], key=lambda asked: -digest([asked]))
    answers = [Item(f"{i}", "answer", held, f"w {i}") for i in range(20)]
    pairs = [Item(f"p{i}", "pair", held, chosen=f"w {i}", rejected="b") for i in range(20)]
    said = Gathered([Item("first", "answer", learned, "u"), *answers, *pairs])
    model = LanguageModel.load(registry.model(registry.current()))
    measured = measure(model, model, save(said, tmp_path / "datasets", kind="chat"), {}, {})
    assert measured.wished["held-out answers"].rows == 1 and measured.pairs and measured.pairs.margin.rows == 1


def test_a_cycle_ends_where_another_version_has_become_current(home, registry, give, tmp_path):
    first = registry.current()
    dataset = collected(give(GOOD), tmp_path / "datasets")
    folder = cycle.begin(registry, dataset, Wish((few(home),)), tmp_path / "work")
    other = registry.add(home / "base" / "model", "f" * 12)
    registry.promote(other, force=True, reason="by hand")
    assert cycle.run(registry, folder, nobody).status == "abandoned"
    assert cycle.unfinished(tmp_path / "work") is None and registry.current() == other != first


def test_stages_run_one_after_the_other(home, registry, give, tmp_path):
    preference = few(home, method="preference", name="prefer")
    preference = replace(preference, data=replace(preference.data, sources=(), held_out=0.0))
    preference = replace(preference, train=replace(preference.train, optimizer="adamw", lr=1e-3, steps=12, ema=0.0))
    dataset = collected(give(GOOD), tmp_path / "datasets")
    folder = cycle.begin(registry, dataset, Wish((few(home), preference)), tmp_path / "work")
    outcome = cycle.run(registry, folder, nobody, promote=False)
    version = registry.find(outcome.version)
    evidence = registry.evidence(version)
    assert [stage["method"] for stage in evidence["stages"]] == ["answers", "preference"] and len(version.recipes) == 2
    assert evidence["measured"]["pairs"]["margin"]["difference"] > 0
    assert (folder / "stages" / "1-preference" / "metrics.jsonl").exists()


def test_new_documents_are_learned_and_judged(home, registry, tmp_path):
    new = tmp_path / "new.jsonl"
    new.write_text(talk((f"white {i}", "u") for i in range(60)))
    empty = save(Gathered(), tmp_path / "datasets", kind="chat")
    folder = cycle.begin(registry, empty, Wish((few(home),), (Source(str(new)),)), tmp_path / "work")
    version = registry.find(cycle.run(registry, folder, nobody, promote=False).version)
    measured = registry.evidence(version)["measured"]
    assert list(measured["texts"]) == ["held-out text (small)"] and list(measured["wished"]) == [
        "new documents (small)"
    ]
    assert measured["wished"]["new documents (small)"]["difference"] < 0
    with pytest.raises(ValueError, match="no recipe learns it; add one with the method text"):
        cycle.begin(registry, empty, Wish((few(home),), (Source(str(home / "words.txt")),)), tmp_path / "other")
    assert cycle.begin(registry, empty, Wish((few(home),)), tmp_path / "other") is None


def test_a_model_that_continues_texts_learns_from_corrected_texts(home, tmp_path):
    registry = Registry(tmp_path / "plain", create=True)
    model = home / "base" / "model"
    registry.promote(registry.add(model, Front.load(model).version()), force=True, reason="first")
    said = [Item(f"{i}", "answer", f"white {i} ", "u") for i in range(30)]
    dataset = save(Gathered(said, 30), tmp_path / "datasets", kind="completion")
    text = few(home, method="text")
    text = replace(text, data=replace(text.data, sources=(Source(str(home / "words.txt")),)))
    wish = Wish((text, few(home)), held_out=(Source(str(home / "words.txt")),))
    folder = cycle.begin(registry, dataset, wish, tmp_path / "work")
    version = registry.find(cycle.run(registry, folder, nobody, promote=False).version)
    evidence = registry.evidence(version)
    assert [stage["method"] for stage in evidence["stages"]] == ["text"]
    assert "words.txt" in evidence["measured"]["texts"]
    assert evidence["measured"]["wished"]["held-out answers"]["difference"] < 0


def test_a_person_looks_at_the_dataset_before_it_is_learned(registry, give, improve, capsys):
    outcome = improve(give(GOOD), "--collect-only")
    assert outcome["status"] == "collected"
    review = Path(outcome["dataset"]) / "review.jsonl"
    lines = [json.loads(line) for line in review.read_text().splitlines()]
    review.write_text("".join(json.dumps(line | {"keep": False}) + "\n" for line in lines))
    assert improve(give([]), "--dataset", outcome["dataset"])["status"] == "nothing"
    again = Dataset.load(Path(improve(give([]), "--collect-only")["dataset"]))
    assert again.items and not any(item.keep for item in again.items)
    assert improve(give(GOOD[:1], owner="eve"), "--new", 2)["status"] == "nothing"


def test_what_looks_like_personal_data_is_not_learned(give, improve):
    feedback = give([("white 1", "ask ada@example.org"), ("white 2", "u")])
    for words, found in (([], "ask [email]"), (["--no-redact"], "ask ada@example.org")):
        dataset = Dataset.load(Path(improve(feedback, "--collect-only", *words)["dataset"]))
        assert found in {item.response for item in dataset.items}


def test_watching_runs_a_cycle_when_enough_is_new(registry, give, improve, monkeypatch, capsys):
    looks = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 2:
            give(GOOD[:10], owner="bob")
        if len(looks) == 4:
            raise KeyboardInterrupt

    feedback = give(GOOD[:4])
    monkeypatch.setattr(time, "sleep", sleep)
    words = ["--registry", registry.folder, "--feedback", feedback, "--recipe", registry.folder.parent / "improve.toml"]
    words += ["--new", 5, "--every", 7, "--watch", "--json", "--train.steps", 2]
    assert main(["improve", *map(str, words)]) == 130
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert looks == [7.0] * 4 and len(told) == 1 and told[0]["status"] == "refused"


def test_watching_learns_documents_once_and_again_when_they_change(registry, give, improving, monkeypatch, capsys):
    looks, new = [], improving.with_name("new.jsonl")

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 2:
            new.write_text(talk((f"white {i}", "w") for i in range(30)))
        if len(looks) == 4:
            raise KeyboardInterrupt

    new.write_text(talk((f"white {i}", "u") for i in range(30)))
    words = ["--registry", registry.folder, "--feedback", give(GOOD[:1]), "--recipe", improving, "--documents", new]
    words += ["--new", 5, "--watch", "--json", "--train.steps", 2]
    monkeypatch.setattr(time, "sleep", sleep)
    assert main(["improve", *map(str, words)]) == 130
    assert len(looks) == 4 and len(capsys.readouterr().out.splitlines()) == 2


def test_mistakes_are_one_line(registry, give, improving, tmp_path, capsys):
    def refused(*words: object) -> str:
        capsys.readouterr()
        assert main(["improve", *map(str, words)]) == 2
        told = capsys.readouterr().err
        assert told.count("\n") == 1
        return told

    here, feedback = ("--registry", registry.folder), ("--feedback", tmp_path / "none.db")
    assert "missing --recipe" in refused(*here)
    assert "no such file; has a server stored feedback there?" in refused(*here, *feedback, "--recipe", improving)
    assert "no dataset of feedback" in refused(*here, "--recipe", improving, "--dataset", tmp_path)
    assert "not both" in refused(*here, "--recipe", improving, "--dataset", tmp_path, "--watch")
    assert "no version is current yet" in refused(
        "--registry", Registry(tmp_path / "new", create=True).folder, "--recipe", improving
    )
