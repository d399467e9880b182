"""`sfumato models`: what is there, what is current, and how it became so."""

import json

import pytest

from sfumato.cli import main


@pytest.fixture
def ask(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("SFUMATO_REGISTRY", str(tmp_path / "pilot"))

    def run(*words: object):
        capsys.readouterr()
        assert main(["models", *map(str, words), "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return run


def test_a_life_of_two_versions(ask, masked_bundle, autoregressive_bundle, tmp_path, capsys):
    first = ask("add", masked_bundle, "--note", "bought")["version"]
    (tmp_path / "found.json").write_text('{"bits_per_byte": 1.5}')
    second = ask("add", autoregressive_bundle, "--parent", first, "--evidence", tmp_path / "found.json")["version"]
    assert ask("promote", first, "--force", "the first one") == {"current": first, "changed": True}
    assert ask("promote", "newest")["current"] == second and ask("promote", "newest")["changed"] is False
    assert [(found["id"], found["current"], found["passed"]) for found in ask("list")] == [
        (first, False, None),
        (second, True, True),
    ]
    assert [found["id"] for found in ask("lineage")] == [second, first]
    assert ask("show", first)["note"] == "bought" and ask("show")["evidence"] == {"bits_per_byte": 1.5}
    assert ask("rollback", "--reason", "too slow") == {"current": first, "previous": second}
    assert [(event["event"], event["forced"], event["reason"]) for event in ask("history")] == [
        ("promote", True, "the first one"),
        ("promote", False, ""),
        ("rollback", False, "too slow"),
    ]
    for words in ("list", "show", "lineage", "history"):
        assert main(["models", words]) == 0
        assert first in capsys.readouterr().out


def test_mistakes_are_one_line(refused, masked_bundle, tmp_path, monkeypatch):
    folder = tmp_path / "pilot"
    assert "there is none; begin one" in refused("models", "list", "--registry", folder)
    monkeypatch.delenv("SFUMATO_REGISTRY", raising=False)
    assert "missing --registry" in refused("models", "list")
    assert main(["models", "add", str(masked_bundle), "--registry", str(folder)]) == 0
    assert "speaks for it" in refused("models", "promote", "newest", "--registry", folder)
    assert "no such version" in refused("models", "promote", "xyz", "--registry", folder)
    assert "nothing to go back to" in refused("models", "rollback", "--registry", folder)
    assert "no version is current" in refused("models", "show", "--registry", folder)
    (tmp_path / "list.json").write_text("[]")
    words = ("models", "add", masked_bundle, "--registry", folder, "--evidence", tmp_path / "list.json")
    assert "expected a file with a JSON object" in refused(*words)
    (tmp_path / "broken").mkdir()
    assert "not a model bundle" in refused("models", "add", tmp_path / "broken", "--registry", folder)
