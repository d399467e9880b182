"""The model card's table of sources."""

from pathlib import Path

from sfumato.cli import main
from sfumato.config import Source
from sfumato.data.sources import content_key


def test_the_card_names_each_source_with_its_licence_and_digest(recipe: Path):
    folder = recipe.parent
    (folder / "more.jsonl").write_text('{"text": "The cat sat."}\n{"text": "A dog | ran."}\n')
    two = '{ path = "stories.jsonl", licence = "CC BY 4.0 | Ann" }, { path = "more.jsonl" }'
    recipe.write_text(recipe.read_text().replace('{ path = "stories.jsonl" }', two))
    assert main(["train", str(recipe), "--out", str(folder / "run")]) == 0
    card = (folder / "run" / "model" / "README.md").read_text("utf-8")
    rows = {line.split(" | ")[0]: line for line in card.splitlines() if ".jsonl" in line}
    digest = content_key(Source(str(folder / "stories.jsonl")))[:12]
    assert rows["| stories.jsonl"].endswith(f"| CC BY 4.0 / Ann | `{digest}` |")
    assert "| not stated |" in rows["| more.jsonl"]
    assert str(folder) not in card
