"""A few records of our own for every file that the recipes in recipes/apps and recipes/tiny-tasks.toml read."""

import json
from pathlib import Path
from typing import Any

WHO = ("a girl", "a boy", "the cat", "my friend", "the old man", "a bird")
DID = ("runs to the park", "sees a red ball", "likes the big tree", "is very happy", "plays in the rain")
FRENCH = {
    "a girl": "une fille",
    "a boy": "un garçon",
    "the cat": "le chat",
    "my friend": "mon ami",
    "the old man": "le vieil homme",
    "a bird": "un oiseau",
    "runs to the park": "court au parc",
    "sees a red ball": "voit une balle rouge",
    "likes the big tree": "aime le grand arbre",
    "is very happy": "est très content",
    "plays in the rain": "joue sous la pluie",
}


def records(name: str) -> list[dict[str, Any]]:
    """Thirty of them, all different."""
    return [_record(name, who, did) for who in WHO for did in DID]


def _record(name: str, who: str, did: str) -> dict[str, Any]:
    text = f"{who.capitalize()} {did}."
    words = [who.split()[-1], did.split()[-1]]
    match name:
        case "translation":
            return {"en": text, "fr": [f"{FRENCH[who].capitalize()} {FRENCH[did]}.", f"{FRENCH[who]} {FRENCH[did]}"]}
        case "headlines":
            return {"text": f"{text} It was on a sunny day, and all were there to see it.", "title": text[:-1]}
        case "restaurants":
            mr = {"name": f"The {words[0].capitalize()}", "food": "French", "near": words[1], "area": "city centre"}
            described = f"{mr['name']} serves French food in the centre, near {words[1]}."
            return {"mr": mr, "text": described, "references": [described, f"French food at {mr['name']}."]}
        case "sentences":
            return {"concepts": words, "target": text, "references": [text]}
        case "sentiment":
            return {"text": text, "label": "good" if "happy" in did or "likes" in did else "bad"}
        case "polite":
            return {"rejected": f"{text} So what?", "chosen": f"{text} How nice!"}
        case "simpler":
            return {"original": f"{text[:-1]}, as everybody knows.", "simplifications": [text, f"So {text}"]}
        case "gaps":
            return {"text": f"{text} {who.capitalize()} ___ at night.", "gap": "sleeps", "story": text}
        case "stories":
            story = f"Once upon a time, {who} was here. {text} The end."
            return {"request": f"Tell me a story about {who}.", "concepts": words[:1], "text": story}
        case "code":
            function = f"def {words[0]}(a, b):\n    {words[1]} = a + b\n    "
            end = f"\n    # {did}"
            return {
                "text": f"{function}<hole>{end}",
                "before": function,
                "gap": f"return {words[1]}",
                "after": end,
            }
        case "tinystories.jsonl.xz":
            return {"text": text}
    talk = [("user", f"Who {did}?"), ("assistant", f"{who.capitalize()}."), ("user", "Thanks"), ("assistant", "Bye!")]
    return {"messages": [{"role": role, "content": content} for role, content in talk]}


def write(file: Path) -> None:
    """Write the records that a file of this name would hold."""
    name = file.name.removesuffix(".jsonl").removesuffix("-held")
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records(name)]
    file.write_text("".join(lines), encoding="utf-8")
