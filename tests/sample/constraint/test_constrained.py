"""Constraints in the decoder: every sampler, layout and mixture of rows."""

import json
import pickle
import re
from collections.abc import Callable

import jsonschema
import pytest
import torch
from decoding import agree, finish, oracle_row, watch
from oracle import LENGTH, MASK, START, VOCABULARY, WORDS, Oracle

from sfumato.model.layout import Full
from sfumato.process import Masked
from sfumato.sample.constraint import Constraint, choice, grammar, json_schema, regex
from sfumato.sample.constraint.automaton import Automaton, from_edges
from sfumato.sample.constraint.regular import Regular
from sfumato.sample.decoder import Decoder, Request
from sfumato.sample.language_model import LanguageModel
from sfumato.sample.left_to_right import LeftToRight
from sfumato.sample.order import Order
from sfumato.sample.settings import Settings
from sfumato.text.tokenizer import Tokenizer

PATTERN = r"[a-z]{2,} (and|or) [A-Zäö]\d*\."
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["red", "blue"]}},
        "sub": {"type": "object", "properties": {"a": {"type": ["null", "number"]}}, "required": ["a"]},
    },
    "required": ["name", "age", "sub"],
}
SAMPLERS = ("confidence", "margin", "entropy", "threshold", "factor", "entropy_bounded", "left_to_right")
Models = Callable[[str], LanguageModel]


def automaton(accepted: set[tuple[int, ...]]) -> Automaton:
    """Of these texts of the oracle, as a tree."""
    nodes: dict[tuple[int, ...], int] = {(): 0}
    edges = []
    for text in sorted(accepted):
        for i in range(len(text)):
            if text[: i + 1] not in nodes:
                nodes[text[: i + 1]] = len(nodes)
                edges.append((nodes[text[:i]], text[i], nodes[text[: i + 1]]))
    source, token, target = torch.tensor(edges).T.numpy()
    accepting = torch.tensor([node in accepted for node in nodes]).numpy()
    return from_edges(source, token, target, accepting, vocab_size=VOCABULARY, end_id=START)


def some_texts(oracle: Oracle) -> set[tuple[int, ...]]:
    return {text for text in map(tuple, oracle.texts_TL.tolist()) if (text[0] + text[3]) % WORDS == 1 or text[1] == 0}


def decode(oracle: Oracle, constraint: Constraint, sampler, steps: int, rows: int, **more) -> list[tuple[int, ...]]:
    decoder = Decoder(oracle, Masked(MASK), Full(), end_id=START, device="cpu")
    requests = [oracle_row(sampler, steps, seed, constraint=constraint, **more) for seed in range(rows)]
    return [text[1:] for text in finish(decoder, requests)]


def test_one_step_draws_from_the_product_given_that_it_is_valid(oracle: Oracle):
    accepted = some_texts(oracle)
    texts = torch.tensor(decode(oracle, Regular(automaton(accepted)), Order("confidence"), 1, 1000))
    site_LX = torch.stack([oracle.joint.sum(dim=[j for j in range(LENGTH) if j != i]) for i in range(LENGTH)])
    law_T = torch.stack([site_LX[range(LENGTH), list(text)].prod() for text in oracle.texts_TL.tolist()])
    valid_T = torch.tensor([tuple(text) in accepted for text in oracle.texts_TL.tolist()])
    assert {tuple(text) for text in texts.tolist()} <= accepted
    found_T, law_T = oracle.frequency(texts)[valid_T], law_T[valid_T] / law_T[valid_T].sum()
    error_T = 4.5 * (law_T * (1 - law_T) / len(texts)).sqrt()
    assert bool(((found_T - law_T).abs() <= error_T + 1e-9).all())


def test_one_step_at_temperature_0_writes_the_best_valid_text(oracle: Oracle):
    site_LX = torch.stack([oracle.joint.sum(dim=[j for j in range(LENGTH) if j != i]) for i in range(LENGTH)])
    for seed in range(12):
        chosen = torch.randperm(81, generator=torch.Generator().manual_seed(seed))[:5]
        accepted = {tuple(text) for text in oracle.texts_TL[chosen].tolist()}
        best = max(accepted, key=lambda text: float(site_LX[range(LENGTH), list(text)].prod()))
        assert decode(oracle, Regular(automaton(accepted)), Order("margin"), 1, 1, temperature=0.0) == [best]


def test_a_constraint_that_takes_everything_changes_no_law(oracle: Oracle):
    everything = Regular(automaton(set(map(tuple, oracle.texts_TL.tolist()))))
    for sampler in (LeftToRight(), Order("confidence")):
        texts = torch.tensor(decode(oracle, everything, sampler, LENGTH, 400))
        assert agree(oracle, texts, oracle.probability_T)


@pytest.mark.parametrize("layout", ["full", "block"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_writes_valid_texts(sampler: str, layout: str, random_model: Models, tokenizer: Tokenizer):
    model = random_model(layout)
    form, document = regex(PATTERN, tokenizer), json_schema(SCHEMA, tokenizer)
    for temperature, steps, block in ((0.0, None, 8), (1.0, 7, 8), (1.0, None, 0), (0.0, 3, 16)):
        if sampler == "left_to_right" and steps:
            continue
        options = {"sampler": sampler, "temperature": temperature, "steps": steps, "block": block, "seed": 3}
        written = model.generate("Once", max_tokens=24, constraint=form, **options)
        assert re.fullmatch(PATTERN, written.completion) and written.finish_reason == "stop"
        written = model.generate("Once", max_tokens=40, constraint=document, **options | {"top_k": 3, "top_p": 0.5})
        jsonschema.validate(json.loads(written.completion), SCHEMA)
        assert steps is None or written.stats.nfe <= steps


def test_the_autoregressive_twin_too(random_model: Models, tokenizer: Tokenizer):
    model = random_model("causal")
    for seed, temperature in ((0, 0.0), (1, 1.0)):
        options = {"temperature": temperature, "seed": seed}
        written = model.generate("Once", max_tokens=24, constraint=regex(PATTERN, tokenizer), **options)
        assert re.fullmatch(PATTERN, written.completion)
        written = model.generate("Once", max_tokens=60, constraint=json_schema(SCHEMA, tokenizer), **options)
        jsonschema.validate(json.loads(written.completion), SCHEMA)
        assert written.stats.nfe < written.stats.committed  # what is forced costs nothing


def requests(tokenizer: Tokenizer, process: str = "masked") -> list[Request]:
    """Rows with constraints and rows without, of many lengths."""
    lark = 'start: "(" start ")" | /[a-c]+/'
    rules: list[Constraint | None] = [
        regex(PATTERN, tokenizer),
        None,
        choice(["Tim", "name and dog"], tokenizer),
        json_schema(SCHEMA, tokenizer),
        grammar(lark, tokenizer),
        None,
    ]
    made = []
    for i, rule in enumerate(rules):
        name = SAMPLERS[i] if process == "masked" else "left_to_right"
        sampler = Settings(sampler=name).build_sampler(Masked(0))
        room = 20 + 7 * i
        tokens, editable = [tokenizer.start_id, *[0] * room], [False, *[True] * room]
        steps = room if name == "left_to_right" else 9
        temperature = (1.0, 0.0, 0.7)[i % 3]
        made.append(Request(tokens, editable, sampler, steps, temperature, seed=i, constraint=rule, block=16))
    return made


def build(model: LanguageModel) -> Decoder:
    return Decoder(model.denoiser, model.process, model.layout, end_id=1, device="cpu")


@pytest.mark.parametrize("layout", ["full", "block", "causal"])
def test_rows_do_not_notice_each_other(layout: str, random_model: Models, tokenizer: Tokenizer):
    model = random_model(layout)
    rows = requests(tokenizer, model.process.name)
    together = finish(build(model), rows)
    assert [finish(build(model), [row])[0] for row in rows] == together
    late = build(model)
    for row in rows[:3]:
        late.add(row)
    done = {event.request: event.tokens for event in late.step() if event.done}
    done |= {event.request: event.tokens for event in watch(late, rows[3:]) if event.done}
    assert [done[i] for i in range(len(rows))] == together
    for row, tokens in zip(rows, together, strict=True):
        if row.constraint is not None:
            assert row.constraint.complete(tokens[1:])


@pytest.mark.parametrize("layout", ["full", "block", "causal"])
def test_every_commit_is_told_and_can_still_become_valid(layout: str, random_model: Models, tokenizer: Tokenizer):
    model, constraint = random_model(layout), json_schema(SCHEMA, tokenizer)
    events = []
    written = model.generate("Once", max_tokens=48, constraint=constraint, on_event=events.append)
    row = dict(enumerate(written.tokens))
    begin = len(written.tokens) - 48
    seen: dict[int, int] = {}
    for event in events:
        for commit in event.commits:
            assert commit.position not in seen and row[commit.position] == commit.token
            seen[commit.position] = commit.token
        told = [seen.get(place, -1) for place in range(begin, len(row))]
        if -1 in told and not event.done:
            assert constraint._stretch(told, 0, [None] * len(told))[1].possible
    written_places = range(begin, begin + written.stats.committed)
    assert set(written_places) <= seen.keys()


@pytest.mark.parametrize("kind", ["schema", "grammar"])
def test_constraints_go_to_other_processes(kind: str, random_model: Models, tokenizer: Tokenizer):
    lark = 'start: "(" start ")" | /[a-c]+/'
    constraint = json_schema(SCHEMA, tokenizer) if kind == "schema" else grammar(lark, tokenizer)
    written = random_model("full").generate("Once", max_tokens=40, constraint=constraint)
    sent = pickle.loads(pickle.dumps(constraint))
    again = random_model("full").generate("Once", max_tokens=40, constraint=sent)
    assert again.tokens == written.tokens and sent.shortest == constraint.shortest


def test_a_text_that_just_fits_is_whole(random_model: Models, tokenizer: Tokenizer):
    constraint = json_schema(SCHEMA, tokenizer)
    for layout in ("full", "causal"):
        written = random_model(layout).generate("Once", max_tokens=constraint.shortest, constraint=constraint)
        jsonschema.validate(json.loads(written.completion), SCHEMA)
        assert written.finish_reason == "stop"
        with pytest.raises(ValueError, match=f"^max_tokens: got room for {constraint.shortest - 1}, but"):
            random_model(layout).generate("Once", max_tokens=constraint.shortest - 1, constraint=constraint)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"sampler": "remdm"}, "sampler: 'remdm' may guess or take back"),
        ({"sampler": "ancestral"}, "sampler: 'ancestral' may guess or take back"),
        ({"sampler": "margin", "patience": 2}, "without patience"),
        ({"length": 20}, "constraint: works on an open end"),
        ({"keywords": ["dog"]}, "keywords: cannot stand in a text with a constraint"),
        ({"max_tokens": 400}, "constraint: works on one window of 192 tokens"),
    ],
)
def test_what_makes_no_sense_is_one_line(options: dict, told: str, random_model: Models, tokenizer: Tokenizer):
    with pytest.raises(ValueError) as error:
        random_model("full").generate("Once", constraint=regex("[a-z]+", tokenizer), **{"max_tokens": 24} | options)
    assert told in str(error.value) and "\n" not in str(error.value)


def test_other_processes_are_refused(tokenizer: Tokenizer, random_model: Models):
    from sfumato.process import Uniform

    network = random_model("full").denoiser
    words = Uniform(mask_id=0, vocab_size=tokenizer.vocab_size, never_written=(0, 2, 3))
    decoder = Decoder(network, words, Full(), end_id=1, device="cpu")
    with pytest.raises(ValueError, match="^constraint: not for the uniform process"):
        decoder.add(requests(tokenizer)[0])


def test_guidance_and_constraints_go_together(random_model: Models, tokenizer: Tokenizer):
    written = random_model("full").generate(
        "Once", max_tokens=24, constraint=regex(PATTERN, tokenizer), guidance=1.5, seed=4
    )
    assert re.fullmatch(PATTERN, written.completion)
