"""Watch a text appear without a terminal view: one line a step, from the trace events.

python examples/watch_steps.py "Once upon a time" --max-tokens 32
"""

import argparse

import sfumato


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("prompt", nargs="?", default="Once upon a time")
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument("--model", default="tiny")
    arguments = parser.parse_args()
    model = sfumato.load(arguments.model)
    row: list[str] = []

    def start(begin):
        row[:] = [
            "_" if editable else model.tokenizer.token_bytes(token).decode(errors="replace")
            for token, editable in zip(begin.tokens, begin.editable, strict=True)
        ]

    def show(event):
        for commit in event.commits:
            row[commit.position] = model.tokenizer.token_bytes(commit.token).decode(errors="replace")
        print(f"{event.step:3d} {''.join(row)!r}")

    written = model.generate(arguments.prompt, max_tokens=arguments.max_tokens, on_start=start, on_event=show)
    print(written.text)


if __name__ == "__main__":
    main()
