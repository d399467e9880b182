"""The dynamic programs against enumeration of all strings."""

import functools
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from sfumato import rng
from sfumato.sample.constraint.automaton import Automaton, from_edges
from sfumato.sample.constraint.joint import OPEN, Stretch

WORDS, END, LENGTH = 3, 3, 4


def automaton(seed: int, states: int = 4) -> Automaton:
    """A random one over three words and the end."""
    random = np.random.default_rng(seed)
    edges = [(s, v, int(random.integers(states))) for s in range(states) for v in range(WORDS) if random.random() < 0.6]
    source, token, target = np.array(edges).T
    accepting = random.random(states) < 0.4
    accepting[int(random.integers(states))] = True
    return from_edges(source, token, target, accepting, vocab_size=WORDS + 1, end_id=END)


def scores(seed: int) -> np.ndarray:
    return np.random.default_rng(100 + seed).normal(size=(LENGTH, WORDS + 1)) * 1.5


def valid(stretch: Stretch) -> list[tuple[int, ...]]:
    """All strings that fit, found by walking the automaton."""
    found = []
    for text in itertools.product(range(WORDS + 1), repeat=len(stretch.tokens_L)):
        state = stretch.state
        for want, token in zip(stretch.tokens_L, text, strict=True):
            state = None if state is None or want not in (OPEN, token) else stretch.automaton.follow(state, token)
        if state is not None and stretch.automaton.distance_S[state] <= stretch.after:
            found.append(text)
    return found


@functools.cache
def cases() -> list[tuple[int, Stretch, list[tuple[int, ...]]]]:
    found = []
    for seed in range(40):
        machine = automaton(seed)
        for tokens in ([OPEN] * 4, [OPEN, 1, OPEN, OPEN], [OPEN, OPEN, OPEN, 0], [OPEN, OPEN]):
            for after in (0, 1, 3):
                stretch = Stretch(machine, 0, tokens, after, [None] * len(tokens))
                texts = valid(stretch)
                assert stretch.possible == bool(texts)
                if texts:
                    found.append((seed, stretch, texts))
    return found


def rows(seed: int, stretch: Stretch) -> list[np.ndarray | None]:
    return [scores(seed)[i] if token == OPEN else None for i, token in enumerate(stretch.tokens_L)]


def weights(log_p: list[np.ndarray | None], texts: list[tuple[int, ...]]) -> np.ndarray:
    return np.array([sum(p[token] for p, token in zip(log_p, text, strict=True) if p is not None) for text in texts])


def test_there_are_enough_cases():
    assert len(cases()) > 150


def test_the_best_string_is_the_best_of_all():
    for seed, stretch, texts in cases():
        log_p = rows(seed, stretch)
        best = texts[int(weights(log_p, texts).argmax())]
        assert tuple(replace(stretch, log_p_LV=log_p).best()) == best


def test_marginals_are_those_of_the_product_given_that_it_is_valid():
    for seed, stretch, texts in cases():
        log_p = rows(seed, stretch)
        p = np.exp(weights(log_p, texts))
        p /= p.sum()
        for place, found in enumerate(replace(stretch, log_p_LV=log_p).marginals()):
            if found is not None:
                exact = np.zeros(WORDS + 1)
                np.add.at(exact, [text[place] for text in texts], p)
                np.testing.assert_allclose(np.exp(found), exact, atol=1e-12)


def test_what_is_forced_is_what_all_strings_share():
    forced = 0
    for _, stretch, texts in cases():
        for place, found in enumerate(stretch.forced()):
            shared = {text[place] for text in texts}
            want = shared.pop() if len(shared) == 1 and stretch.tokens_L[place] == OPEN else OPEN
            assert found == want
            forced += want != OPEN
    assert forced > 50


@pytest.mark.parametrize("number", [0, 7, 40, 90])
def test_draws_follow_the_product_given_that_it_is_valid(number: int):
    seed, stretch, texts = max(cases()[number : number + 20], key=lambda case: len(case[2]))
    log_p = rows(seed, stretch)
    p = np.exp(weights(log_p, texts))
    p /= p.sum()
    count, places = 1500, torch.arange(len(stretch.tokens_L))
    drawn = [
        tuple(replace(stretch, log_p_LV=log_p).draw(rng.uniform(torch.tensor(i), places).tolist()))
        for i in range(count)
    ]
    frequency = np.array([drawn.count(text) for text in texts]) / count
    assert abs(frequency.sum() - 1) < 1e-12  # nothing invalid
    assert np.all(np.abs(frequency - p) < 4.5 * np.sqrt(p * (1 - p) / count) + 1e-12)


def test_one_uniform_number_decides_one_place():
    seed, stretch, texts = next(case for case in cases() if len(case[2]) > 10)
    log_p = rows(seed, stretch)
    first = [
        replace(stretch, log_p_LV=log_p).draw([u, 0.3, 0.3, 0.3][: len(log_p)])[0] for u in np.linspace(0.01, 0.99, 50)
    ]
    assert first == sorted(first)  # the inverse of the cumulative distribution


def test_places_that_were_not_read_count_as_even():
    seed, stretch, texts = next(case for case in cases() if len(case[2]) > 10 and len(case[1].tokens_L) == 4)
    log_p = [rows(seed, stretch)[0], None, None, None]
    p = np.exp(weights(log_p, texts))
    exact = np.zeros(WORDS + 1)
    np.add.at(exact, [text[0] for text in texts], p / p.sum())
    np.testing.assert_allclose(np.exp(replace(stretch, log_p_LV=log_p).marginals()[0]), exact, atol=1e-12)


def test_tiny_weights_do_not_vanish():
    machine = from_edges(
        np.array([0, 1]), np.array([0, 1]), np.array([1, 2]), np.array([False, False, True]), vocab_size=4, end_id=3
    )
    hopeless = np.array([-9e4, -9e4, 0.0, 0.0])
    assert Stretch(machine, 0, [OPEN] * 2, 0, [hopeless] * 2).draw([0.5] * 2) == [0, 1]
    assert math.isclose(Stretch(machine, 0, [OPEN] * 2, 0, [hopeless] * 2).marginals()[1][1], 0.0, abs_tol=1e-6)
