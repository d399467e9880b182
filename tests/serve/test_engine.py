"""The engine alone: rows of many requests, decoded together."""

from collections import defaultdict
from dataclasses import replace

import pytest

from sfumato.sample.language_model import LanguageModel
from sfumato.serve.engine import Engine, Job, Probe, Update

PROMPTS = ["Once upon a time", "Tom", "The big dog ran", "Lily", "One day", "A", "The sun", "Ben saw a cat"]


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return LanguageModel.load("tiny", "cpu", "float32")


def job(model: LanguageModel, prompt: str, *, id: str = "", n: int = 1, tokens: int = 12, owner: str = "", **options):
    plan, row = model.front.plan(options), model.front.row(prompt, tokens)
    requests = [
        plan.request(row.tokens, row.editable, steps=plan.steps(row.room), seed=seed, trace=True) for seed in range(n)
    ]
    return Job(id or prompt, "m", "v1", tuple(requests), owner)


def engine(model: LanguageModel, **options) -> Engine:
    engine = Engine(**options)
    engine.load("m", "v1", model)
    return engine


def finish(engine: Engine) -> dict[tuple[str, int], tuple[int, ...]]:
    done = {}
    for update in run(engine):
        assert not update.error
        if update.event and update.event.tokens is not None:
            done[update.job, update.row] = update.event.tokens
    return done


def run(engine: Engine) -> list[Update]:
    updates = []
    for _ in range(2000):
        if not engine.busy:
            return updates
        updates += engine.step()
    raise AssertionError("the engine does not come to an end")


def test_eight_together_are_eight_alone(model: LanguageModel):
    together, alone = engine(model, rows=8), {}
    for prompt in PROMPTS:
        together.submit(job(model, prompt))
        one = engine(model)
        one.submit(job(model, prompt))
        alone |= finish(one)
    assert finish(together) == alone and len(alone) == 8
    assert together.stats().batch[8] > 0


def test_rows_that_join_at_any_step_change_nothing(model: LanguageModel):
    shared, alone = engine(model, rows=3), {}
    updates = []
    for prompt in PROMPTS:
        shared.submit(job(model, prompt))
        updates += shared.step()
        one = engine(model)
        one.submit(job(model, prompt))
        alone |= finish(one)
    updates += run(shared)
    written = {(u.job, u.row): u.event.tokens for u in updates if u.event and u.event.done}
    assert written == alone


def test_alone_means_alone(model: LanguageModel):
    invariant = engine(model, rows=4, batch_invariant=True)
    for prompt in PROMPTS[:4]:
        invariant.submit(job(model, prompt))
    written = finish(invariant)
    stats = invariant.stats()
    assert set(stats.batch) == {1} and len(written) == 4 and stats.prefix_tokens == 0
    assert stats.forwards == sum(stats.batch.values())


def test_owners_share_the_places(model: LanguageModel):
    """Who asks for one text is not kept waiting by who asks for twenty."""
    shared = engine(model, rows=2)
    shared.submit(job(model, "Tom", id="many", n=20, owner="a"))
    shared.step()
    shared.submit(job(model, "Lily", id="one", owner="b"))
    order = [(u.job, u.row) for u in run(shared) if u.event and u.event.done]
    assert ("one", 0) in order[:4]


def test_a_cancelled_job_is_gone_before_the_next_step(model: LanguageModel):
    shared = engine(model, rows=2)
    shared.submit(job(model, "Tom", id="x", n=4))
    shared.submit(job(model, "Lily", id="y"))
    shared.step()
    assert shared.running == 2 and shared.queued == 3
    shared.cancel("x")
    assert shared.running == 0 and shared.queued == 1
    assert {u.job for u in run(shared)} == {"y"}
    shared.cancel("x")  # once more


def test_one_row_of_a_job_can_be_cancelled(model: LanguageModel):
    shared = engine(model)
    shared.submit(job(model, "Tom", id="x", n=3))
    shared.step()
    shared.cancel("x", 1)
    assert set(finish(shared)) == {("x", 0), ("x", 2)}


def test_a_model_is_swapped_under_load(model: LanguageModel):
    shared = engine(model, rows=2)
    shared.submit(job(model, "Tom", id="old", n=4))
    shared.step()
    shared.load("m", "v2", LanguageModel.load("tiny", "cpu", "float32"))
    shared.submit(replace(job(model, "Lily", id="new"), version="v2"))
    shared.submit(job(model, "Ben", id="late"))  # made before the swap was known
    shared.retire("m", "v1")
    before = shared.stats().forwards
    assert len(finish(shared)) == 6
    assert shared.stats().forwards > before  # nothing forgotten
    assert [u.error for u in shared.submit(job(model, "Tom", id="too late"))] == ["model 'm' is not loaded"]
    assert len(shared._lanes) == 1


def test_an_impossible_row_is_refused_and_the_others_go_on(model: LanguageModel):
    shared, good = engine(model), job(model, "Lily")
    bad = job(model, "Tom", id="bad")
    bad = replace(bad, rows=(replace(bad.rows[0], steps=0),))
    shared.submit(bad)
    shared.submit(good)
    updates = run(shared)
    errors = [update for update in updates if update.error]
    assert [(e.job, e.fault) for e in errors] == [("bad", False)] and "steps" in errors[0].error
    assert any(update.job == "Lily" and update.last for update in updates)


def test_a_step_that_fails_ends_its_rows_and_nothing_else(model: LanguageModel, caplog: pytest.LogCaptureFixture):
    shared = engine(model)
    broken = job(model, "Tom", id="broken")
    shared.submit(replace(broken, rows=(replace(broken.rows[0], sampler=Broken()),)))
    errors = [update for update in run(shared) if update.error]
    assert [(e.job, e.fault) for e in errors] == [("broken", True)]
    shared.submit(job(model, "Lily"))
    assert len(finish(shared)) == 1
    assert "its 1 rows are lost" in caplog.text


class Broken:
    name, processes, revises = "broken", ("masked",), False

    def levels(self, *args, **kwargs):
        raise ZeroDivisionError("of the sampler")


def test_what_a_conversation_shares_is_not_run_again(model: LanguageModel):
    shared, updates = engine(model), defaultdict(list)
    for _ in range(2):
        shared.submit(job(model, "Once upon a time there was a little girl named Lily who had a big red ball"))
        for update in run(shared):
            updates[update.job].append(update)
    assert shared.stats().prefix_tokens >= 16


def test_influence_is_answered_between_steps(model: LanguageModel):
    shared = engine(model)
    tokens = (3, *model.tokenizer.encode("The dog saw a dog"))
    shared.submit(job(model, "Tom"))
    shared.submit(Probe("p", "m", "v1", tokens, 2))
    shared.submit(Probe("q", "m", "v1", tokens, 99))
    updates = {update.job: update for update in run(shared) if update.job in ("p", "q")}
    found = updates["p"].answer
    assert found is not None and len(found.delta) == len(tokens) - 2
    assert "position: expected 1 to" in updates["q"].error


def test_a_model_that_comes_back_goes_on_with_its_rows(model: LanguageModel):
    busy = engine(model)
    busy.submit(job(model, "Tom"))
    busy.step()
    busy.retire("m", "v1")
    busy.load("m", "v1", model)
    assert ("Tom", 0) in finish(busy)
    busy.submit(job(model, "Ben"))
    assert ("Ben", 0) in finish(busy)


def test_what_fails_as_it_begins_ends_itself_alone(model: LanguageModel, caplog: pytest.LogCaptureFixture):
    busy = engine(model)
    bad = job(model, "Tom", id="bad")
    busy.submit(replace(bad, rows=(replace(bad.rows[0], sampler=None),)))
    busy.submit(Probe("probe", "m", "v1", (3, 1 << 30), 1))
    busy.submit(job(model, "Ben"))
    updates = run(busy)
    assert [update.job for update in updates if update.fault] == ["bad", "probe"]
    assert any(update.job == "Ben" and update.event and update.event.done for update in updates)
    assert "a request cannot begin" in caplog.text


def test_a_long_question_lets_rows_go_on(model: LanguageModel):
    busy = engine(model)
    busy.submit(Probe("probe", "m", "v1", (3, *[300] * 100), 1))
    busy.submit(job(model, "Tom", tokens=4))
    done = [update.job for update in run(busy) if update.last]
    assert done == ["Tom", "probe"]
