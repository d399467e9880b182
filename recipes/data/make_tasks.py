"""Make the records that `recipes/tiny-tasks.toml` and the recipes in `recipes/apps` learn from, out of public sets.

    make_tasks.py --sets SETS --out OUT

SETS holds the published files as JSON lines, compressed with xz; those that are missing are left out. Each set becomes
`NAME.jsonl` to learn from and `NAME-held.jsonl` to score with; no prompt, and no story, is in both.

    tatoeba_en_fr      {en, fr: [..]}                       translation   Tatoeba, CC BY 2.0 FR
    articles           {title, text}                        headlines     Wikinews, public domain and CC BY 2.5
    e2e_train, _dev    {mr: {attribute: value}, text}       restaurants   E2E, CC BY-SA 4.0
    commongen_train, _dev {concepts: [..], target}          sentences     CommonGen, MIT
    sentence_polarity  {text, label}                        sentiment     Pang and Lee 2005, CC BY 4.0
    polite_preferences {rejected, chosen}                   polite        S. Raschka, Apache-2.0
    asset_valid        {original, simplifications: [..]}    simpler       ASSET, CC BY-NC 4.0: research only
    tinystories        {text}                               gaps, stories TinyStories, CDLA-Sharing-1.0
    schema_guided      {messages}                           services      Schema-Guided Dialogue, CC BY-SA 4.0
    dolly              {messages}                           instructions  Dolly 15k, CC BY-SA 3.0
"""

import argparse
import hashlib
import json
import lzma
import random
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from make_chat import REQUESTS, ROUGH, THINGS, tidy

Record = dict[str, Any]
HELD = 0.03  # share of a set without a part of its own to score with
MOST_HELD = 500
GAP = "___"


def records(path: Path) -> Iterator[Record]:
    with lzma.open(path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


def spoken(text: str) -> str:
    """Text without the spaces that tokenisation has put before punctuation."""
    text = re.sub(r"(?<=\w) - (?=\w)", "-", re.sub(r" ([.,!?;:)])", r"\1", tidy(text)))
    return re.sub(r" (n't|'s|'re|'ve|'ll|'m|'d)\b", r"\1", text).replace("( ", "(")


def translation(found: Iterable[Record]) -> Iterator[Record]:
    for record in found:
        if len(record["en"]) < 80 and len(record["fr"][0]) < 90:
            yield {"en": tidy(record["en"]), "fr": [tidy(one) for one in record["fr"]]}


def headlines(found: Iterable[Record]) -> Iterator[Record]:
    for record in found:
        text = tidy(record["text"].partition("\n")[0])
        if 80 < len(text) < 330 and 15 < len(record["title"]) < 75 and not ROUGH.search(text):
            yield {"text": text, "title": tidy(record["title"])}


def restaurants(found: Iterable[Record]) -> Iterator[Record]:
    for record in found:
        yield {"mr": {name: tidy(value) for name, value in record["mr"].items()}, "text": spoken(record["text"])}


def sentences(found: Iterable[Record]) -> Iterator[Record]:
    for record in found:
        yield {"concepts": record["concepts"], "target": spoken(record["target"])}


def sentiment(found: Iterable[Record]) -> Iterator[Record]:
    for record in found:
        yield {"text": spoken(record["text"]), "label": {"pos": "good", "neg": "bad"}[record["label"]]}


def polite(found: Iterable[Record]) -> Iterator[Record]:
    for record in found:
        if record["rejected"] != record["chosen"] and len(record["rejected"]) < 300:
            yield {"rejected": tidy(record["rejected"]), "chosen": tidy(record["chosen"])}


def simpler(found: Iterable[Record]) -> Iterator[Record]:
    for record in found:
        simple = [spoken(one) for one in record["simplifications"]]
        yield {"original": spoken(record["original"]), "simplifications": simple}


def gaps(found: Iterable[Record]) -> Iterator[Record]:
    """A word or two of a story, taken out of its two or three sentences."""
    for number, record in enumerate(found):
        draw = random.Random(f"gap {number}")
        parts = re.findall(r"[^.!?]+[.!?]+[\"']?", tidy(record["text"]))
        for begin in range(0, len(parts) - 2, 4):
            words = "".join(parts[begin : begin + 3]).split()
            if not 12 <= len(words) <= 45:
                continue
            size = draw.choice((1, 1, 2, 3))
            place = draw.randrange(2, len(words) - size - 1)
            gap = " ".join(words[place : place + size])
            text = " ".join([*words[:place], GAP, *words[place + size :]])
            yield {"text": text, "gap": gap, "story": record["text"]}


def requested(found: Iterable[Record]) -> Iterator[Record]:
    """A story, the request for it, and what it is to be about."""
    draw = random.Random(0)
    for record in found:
        text = tidy(record["text"])
        words = [word for word in re.findall("[a-z]+", text.lower()) if word in THINGS]
        if len(text) < 900 and words:
            topic = max(sorted(set(words)), key=words.count)
            yield {"request": draw.choice(REQUESTS).format(f"a {topic}"), "concepts": [topic], "text": text}


def services(found: Iterable[Record]) -> Iterator[Record]:
    yield from conversations(found, longest=150, most=4000)


def instructions(found: Iterable[Record]) -> Iterator[Record]:
    yield from conversations(found, longest=280, most=4000)


def conversations(found: Iterable[Record], longest: int, most: int) -> Iterator[Record]:
    count = 0
    for record in found:
        turns = [{"role": turn["role"], "content": tidy(turn["content"])} for turn in record["messages"][:8]]
        whole = " ".join(turn["content"] for turn in turns)
        short = max(len(turn["content"]) for turn in turns) < longest
        if short and len(turns) > 1 and whole.isascii() and not ROUGH.search(whole):
            count += 1
            yield {"messages": turns}
        if count == most:
            return


SETS: dict[str, tuple[Callable[[Iterable[Record]], Iterator[Record]], str, str, str]] = {
    "translation": (translation, "tatoeba_en_fr", "", "en"),
    "headlines": (headlines, "articles", "", "text"),
    "restaurants": (restaurants, "e2e_train", "e2e_dev", "mr"),
    "sentences": (sentences, "commongen_train", "commongen_dev", "concepts"),
    "sentiment": (sentiment, "sentence_polarity", "", "text"),
    "polite": (polite, "polite_preferences", "", "rejected"),
    "simpler": (simpler, "asset_valid", "", "original"),
    "gaps": (gaps, "tinystories", "", "story"),
    "stories": (requested, "tinystories", "", "text"),
    "services": (services, "schema_guided", "", "messages"),
    "instructions": (instructions, "dolly", "", "messages"),
}
SEVERAL = {"restaurants": "text", "sentences": "target"}  # what a prompt has several of


def gathered(found: Iterable[Record], prompt: str, answer: str) -> Iterator[Record]:
    """One record a prompt, with all answers to it as `references`."""
    together: dict[str, Record] = {}
    for record in found:
        kept = together.setdefault(json.dumps(record[prompt]), {prompt: record[prompt], "references": []})
        kept["references"].append(record[answer])
    yield from together.values()


def held_out(prompt: Any) -> bool:
    """By a hash; of the stories those that the bundled models have not seen either."""
    if isinstance(prompt, str) and prompt in STORIES:
        return STORIES[prompt]
    digest = hashlib.blake2b(json.dumps(prompt).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < HELD * 2**64


def _stories() -> dict[str, bool]:
    """The shipped stories, and whether they are held out."""
    here = Path(__file__).parent
    held = {json.loads(line)["text"] for line in (here / "heldout.jsonl").read_text(encoding="utf-8").splitlines()}
    return {record["text"]: record["text"] in held for record in records(here / "tinystories.jsonl.xz")}


STORIES = _stories()


def write(file: Path, found: Iterable[Record]) -> int:
    kept = ({name: value for name, value in record.items() if name != "story"} for record in found)
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in kept]
    file.write_text("".join(lines), encoding="utf-8")
    return len(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    files = {path.name.removesuffix(".jsonl.xz"): path for path in sorted(options.sets.rglob("*.jsonl.xz"))}
    for name, (shaped, learn, held, prompt) in SETS.items():
        if learn not in files:
            continue
        found = list(shaped(records(files[learn])))
        if held:
            scored = list(gathered(shaped(records(files[held])), prompt, SEVERAL[name]))
            seen = {json.dumps(record[prompt]) for record in scored}
            found = [record for record in found if json.dumps(record[prompt]) not in seen]
        else:
            scored = [record for record in found if held_out(record[prompt])]
            found = [record for record in found if not held_out(record[prompt])]
        counts = (
            write(options.out / f"{name}.jsonl", found),
            write(options.out / f"{name}-held.jsonl", scored[:MOST_HELD]),
        )
        print(f"{name}: {counts[0]} to learn from, {counts[1]} to score with")


if __name__ == "__main__":
    main()
