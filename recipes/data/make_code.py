"""Make Python code to learn from and holes to fill, out of the standard library that this Python came with.

    make_code.py --out OUT

`code.jsonl` holds functions and methods {text}; `code-held.jsonl` others, of other modules, with one line taken out:
{text, before, gap, after}. The standard library is under the PSF licence; nothing of it comes along.
"""

import argparse
import ast
import hashlib
import json
import random
import sysconfig
from collections.abc import Iterator
from pathlib import Path

HOLE = "<hole>"
LONGEST, SHORTEST = 700, 120  # characters
MOST_HELD = 500
HELD = 0.04  # of the modules


def functions(path: Path) -> Iterator[str]:
    """The functions of a module as they are written, moved to the margin, without docstrings."""
    try:
        source = path.read_text(encoding="utf-8")
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and not node.decorator_list:
            lines = source.splitlines()[node.lineno - 1 : node.end_lineno]
            if ast.get_docstring(node) is not None:
                doc = node.body[0]
                end = doc.end_lineno or doc.lineno
                lines = lines[: doc.lineno - node.lineno] + lines[end - node.lineno + 1 :]
            text = "\n".join(line[node.col_offset :] for line in lines)
            if SHORTEST <= len(text) <= LONGEST and text.isascii() and parses(text):
                yield text


def parses(text: str) -> bool:
    try:
        ast.parse(text)
    except (SyntaxError, ValueError):
        return False
    return True


def with_hole(text: str) -> dict[str, str] | None:
    """A line of the body taken out; the space before it stays."""
    lines = text.split("\n")
    long_enough = [i for i in range(1, len(lines)) if 8 <= len(lines[i].strip()) <= 60]
    if not long_enough:
        return None
    place = random.Random(text).choice(long_enough)
    gap = lines[place].lstrip()
    margin = lines[place][: len(lines[place]) - len(gap)]
    before = "\n".join([*lines[:place], margin])
    after = "".join("\n" + line for line in lines[place + 1 :])
    return {"text": before + HOLE + after, "before": before, "gap": gap, "after": after}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    root, learn, held, seen = Path(sysconfig.get_paths()["stdlib"]), [], [], set()
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if any(part in ("site-packages", "test", "tests", "idlelib", "lib2to3") for part in path.parts):
            continue
        number = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big") / 2**64
        for text in functions(path):
            if text in seen:
                continue
            seen.add(text)
            if number >= HELD:
                learn.append({"text": text})
            elif record := with_hole(text):
                held.append(record)
    for name, found in (("code", learn), ("code-held", held[:MOST_HELD])):
        lines = [json.dumps(record) + "\n" for record in found]
        (options.out / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
        print(f"{name}: {len(found)}")


if __name__ == "__main__":
    main()
