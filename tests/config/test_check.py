from dataclasses import asdict, dataclass
from typing import Any

import pytest

from sfumato.config import (
    ConfigError,
    DataConfig,
    ModelConfig,
    ProcessConfig,
    Recipe,
    Source,
    TrainConfig,
    closest,
    from_mapping,
    option,
)
from sfumato.config.check import names


def message(cls: type, mapping: Any, where: str = "x.toml") -> str:
    with pytest.raises(ConfigError) as caught:
        from_mapping(cls, mapping, where)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_nothing_given_is_the_defaults():
    assert from_mapping(Recipe, {}, "x.toml") == Recipe()


def test_a_recipe_survives_plain_values():
    recipe = Recipe(name="ä", data=DataConfig(sources=(Source("a", 2.0), Source("b"))), train=TrainConfig(tokens=7))
    assert from_mapping(Recipe, asdict(recipe), "x.toml") == recipe


@pytest.mark.parametrize("value", [200_000_000, 2e8, "2e8", "200000000", "200_000_000", " 2E+8 "])
def test_a_count_may_be_written_as_people_write_it(value: Any):
    tokens = from_mapping(TrainConfig, {"tokens": value}, "x.toml").tokens
    assert tokens == 200_000_000 and type(tokens) is int


@pytest.mark.parametrize("value", [1, 1.0, "1", "1.0", "1e0"])
def test_a_number_becomes_a_float(value: Any):
    lr = from_mapping(TrainConfig, {"lr": value}, "x.toml").lr
    assert lr == 1.0 and type(lr) is float


@pytest.mark.parametrize("value", [2.5, "2.5", "", "many", "nan", "inf", "1e400", True, None, [1], {"a": 1}, 1e300])
def test_what_is_no_whole_number_is_refused(value: Any):
    text = message(TrainConfig, {"steps": value})
    assert text.startswith("x.toml: steps: expected a whole number, got ")


@pytest.mark.parametrize("value", ["", "fast", "nan", float("nan"), float("inf"), "1e400", 10**400, False, None, []])
def test_what_is_no_finite_number_is_refused(value: Any):
    assert message(TrainConfig, {"lr": value}).startswith("x.toml: lr: expected a number, got ")


@pytest.mark.parametrize(("value", "expected"), [(True, True), ("true", True), ("False", False), (False, False)])
def test_a_truth_value_is_true_or_false(value: Any, expected: bool):
    assert from_mapping(TrainConfig, {"compile": value}, "x.toml").compile is expected


@pytest.mark.parametrize("value", [1, 0, "yes", "", None])
def test_other_truth_values_are_refused(value: Any):
    assert "compile: expected true or false" in message(TrainConfig, {"compile": value})


@pytest.mark.parametrize("value", [3, True, None, 1.5, ["a"]])
def test_text_is_not_guessed(value: Any):
    assert "name: expected text" in message(Recipe, {"name": value})


def test_an_unknown_key_names_the_closest():
    assert message(Recipe, {"trian": {}}) == "x.toml: unknown key trian; did you mean train?"
    assert message(Recipe, {"train": {"stepz": 1}}) == "x.toml: unknown key train.stepz; did you mean train.steps?"
    assert (
        message(ProcessConfig, {"q": 1})
        == "x.toml: unknown key q; valid keys: kind, schedule, objective, uniform_share, noise_scale, levels"
    )


def test_an_unknown_choice_names_the_closest():
    assert message(ProcessConfig, {"kind": "maskd"}) == (
        "x.toml: kind: expected masked, uniform, hybrid, gaussian, insertion or autoregressive, got 'maskd'; "
        "did you mean masked?"
    )
    assert message(ProcessConfig, {"schedule": "zzz"}).endswith("expected linear, cosine or log-linear, got 'zzz'")


@pytest.mark.parametrize(
    ("section", "key", "value", "expected"),
    [
        ("train", "batch", 0, "at least 1"),
        ("train", "ema", 1, "a number below 1"),
        ("train", "decay", 1.5, "at most 1"),
        ("data", "held_out", -0.1, "at least 0"),
        ("model", "context", 1, "at least 2"),
    ],
)
def test_a_value_out_of_range_is_refused(section: str, key: str, value: Any, expected: str):
    assert message(Recipe, {section: {key: value}}) == f"x.toml: {section}.{key}: expected {expected}, got {value}"


def test_a_section_must_be_a_table():
    assert message(Recipe, {"train": 3}) == "x.toml: train: expected a table, got 3"
    assert message(Recipe, [1]) == "x.toml: expected a table, got [1]"


def test_sources_may_be_tables_or_text():
    tables = {"sources": [{"path": "a.txt", "weight": 3}, "b.jsonl"]}
    assert from_mapping(DataConfig, tables, "x").sources == (Source("a.txt", 3.0), Source("b.jsonl"))
    line = {"sources": "a.txt@3, b.jsonl,hf:x@y@0.5,"}
    assert from_mapping(DataConfig, line, "x").sources == (
        Source("a.txt", 3.0),
        Source("b.jsonl"),
        Source("hf:x@y", 0.5),
    )
    assert from_mapping(DataConfig, {"sources": "me@home.txt"}, "x").sources == (Source("me@home.txt"),)


def test_a_bad_source_is_named_by_its_place():
    assert message(DataConfig, {"sources": ["a", "b@-1"]}).startswith("x.toml: sources[1].weight: expected at least 0")
    assert message(DataConfig, {"sources": [{"weight": 1}]}).startswith("x.toml: sources[0]: missing key path (file,")
    assert message(DataConfig, {"sources": [{"path": "a", "wight": 1}]}).endswith("did you mean sources[0].weight?")
    assert message(DataConfig, {"sources": 3}) == "x.toml: sources: expected a list, got 3"


def test_rules_between_fields_are_checked_everywhere():
    assert message(Recipe, {"model": {"width": 250}}) == (
        "x.toml: model.width must be a multiple of 2 * model.heads: got 250 and 4 heads; try width 256"
    )
    with pytest.raises(ConfigError, match=r"kv_heads must divide model.heads: got 3 and 4; try one of 1, 2, 4"):
        ModelConfig(kv_heads=3)


def test_patience_without_evaluations_is_refused():
    with pytest.raises(ConfigError, match="train.patience: got 2, but there are no evaluations to count"):
        from_mapping(Recipe, {"train": {"patience": 2}}, "x")
    assert from_mapping(Recipe, {"train": {"patience": 2, "evaluate_every": 10}}, "x").train.patience == 2


def test_long_values_are_cut_in_messages():
    assert len(message(TrainConfig, {"steps": "9" * 6000})) < 120


def test_an_optional_field_takes_none_or_a_value():
    @dataclass(frozen=True)
    class Options:
        seed: int | None = option(None, "seed")

    assert from_mapping(Options, {"seed": None}, "x").seed is None
    assert from_mapping(Options, {"seed": "3"}, "x").seed == 3


def test_every_setting_is_documented():
    assert not [name for name, (_, field) in names(Recipe).items() if not field.metadata.get("help")]
    assert all(field.metadata.get("help") for _, field in names(Source).values())


def test_the_closest_name_ignores_the_section():
    valid = ["train.steps", "train.lr", "model.width", "seed"]
    assert closest("model.steps", valid) == "train.steps"
    assert closest("widht", valid) == "model.width"
    assert closest("sed", valid) == "seed"
    assert closest("xyzzy", valid) is None
