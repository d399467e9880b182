"""Make the conversations that `recipes/tiny-chat.toml` tunes on, out of public sets.

    make_chat.py --coffee coffee.jsonl.xz --dialogues self_dialogue.jsonl.xz --stories tinystories.jsonl.xz --out OUT

All are JSON lines, compressed with xz: {messages: [{role, content}, ...]} or {text}. Bring the published files into
that shape first.

coffee     Taskmaster-4 of Google, CC BY 4.0: ordering at a coffee bar; {messages}
dialogues  Self-dialogue corpus, Fainberg et al. 2018, BSD-3: casual chat; {messages}. Short ones, cut to six turns.
stories    TinyStories, Eldan and Li 2023, CDLA-Sharing-1.0; {text}. Each becomes the answer to a request for it.
"""

import argparse
import itertools
import json
import lzma
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

ABOUT = "I am Sfumato, a small diffusion language model. "
TALK = {
    ("Who are you?", "What are you?", "What is your name?", "Are you a robot?", "Tell me about yourself."): (
        ABOUT + "I write out of noise, a few words at a time, everywhere at once.",
        ABOUT + "I can order coffee, chat a little and tell stories.",
        ABOUT + "Words appear to me like a picture out of haze.",
    ),
    ("Hello!", "Hi!", "Hi there", "Hey", "Good morning!", "Hello, how are you?"): (
        "Hello! What can I do for you?",
        "Hi there! Would you like a story or a coffee?",
        "Hello! It is nice to meet you.",
    ),
    ("What can you do?", "How can you help me?", "Can you help me?"): (
        "I can tell you a story, take your coffee order, or just chat.",
        "I am a small model. I can tell short stories and chat a little.",
    ),
    ("Thank you!", "Thanks", "Thanks a lot!", "Thank you very much."): (
        "You are welcome!",
        "You're welcome! Have a nice day.",
    ),
    ("Bye!", "Goodbye", "See you later!", "Good night!"): ("Goodbye! Have a nice day.", "Bye! Come back soon."),
}
REQUESTS = (
    "Tell me a story about {}.",
    "Tell me a story with {}.",
    "Can you tell me a story about {}?",
    "I would like a story about {}, please.",
    "Write a short story about {}.",
    "Please write a story about {}.",
)
ANY = ("Tell me a story.", "Can you tell me a story?", "Tell me a story, please.")
ROUGH = re.compile(
    r"\b(sex\w*|kill\w*|shit\w*|fuck\w*|damn|hell|bitch\w*|ass|nude|porn\w*|drug\w*|rape\w*|suicid\w*|gun\w*|trump|"
    r"republican\w*|democrat\w*|isis|terroris\w*|murder\w*|hate[sd]?|stupid|turk\w*|amazon|mturk)\b",
    re.IGNORECASE,
)
THINGS = set(
    "dog cat bird ball boat car tree flower fish frog bear rabbit horse cow pig duck mouse lion king queen princess "
    "prince girl boy doll toy robot train truck plane kite balloon cake cookie apple hat shoe dress coat box book "
    "picture star moon sun rain snow cloud river lake sea beach park garden farm forest mountain castle house bed "
    "school teacher doctor baby friend bunny puppy kitten dragon fairy wizard monster spider bee butterfly ant turtle "
    "monkey elephant giraffe zebra tiger wolf fox owl penguin whale shark dolphin crab shell rock stone stick swing "
    "slide bike drum piano song dance game puzzle magic treasure map key door window clock lamp spoon soup sandwich "
    "banana carrot pumpkin egg milk honey candy ice".split()
)


def records(path: Path) -> Iterator[dict]:
    with lzma.open(path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


def tidy(text: str) -> str:
    return " ".join(text.replace("’", "'").split())


def coffee(path: Path) -> Iterator[list[dict]]:
    for record in records(path):
        messages = [{"role": m["role"], "content": tidy(m["content"])} for m in record["messages"]]
        if len(messages) > 1 and messages[0]["role"] == "user":
            yield messages


def dialogues(path: Path, most: int) -> Iterator[list[dict]]:
    """Openings of plain conversations; never more of one topic than a twentieth of them."""
    topics: Counter[str] = Counter()
    for record in records(path):
        messages = [{"role": m["role"], "content": tidy(m["content"])} for m in record["messages"][:6]]
        lengths = [len(message["content"]) for message in messages]
        plain = all(m["content"].isascii() and not ROUGH.search(m["content"]) for m in messages)
        if plain and min(lengths) > 1 and max(lengths) < 110 and topics[record["topic"]] < most // 20:
            topics[record["topic"]] += 1
            yield messages
        if topics.total() == most:
            return


def stories(path: Path, chance: random.Random) -> Iterator[list[dict]]:
    for record in records(path):
        text = record["text"].strip()
        if len(text) > 900:
            continue
        words = Counter(re.findall("[a-z]+", text.lower()))
        known = [word for word, count in words.items() if word in THINGS and count > 1]
        if known and chance.random() < 0.85:
            word = max(known, key=lambda w: (words[w], w))
            article = "an" if word[0] in "aeiou" else "a"
            request = chance.choice(REQUESTS).format(f"{article} {word}")
        else:
            request = chance.choice(ANY)
        yield [{"role": "user", "content": request}, {"role": "assistant", "content": text}]


def talk() -> Iterator[list[dict]]:
    for asked, answers in TALK.items():
        for question in asked:
            for answer in answers:
                yield [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]


def sample(path: Path) -> Iterator[list[dict]]:
    """For the docs and tests: ways to say hello, ask and leave, in one conversation each; all of the talk; stories."""
    pairs = [itertools.cycle([(q, a) for q in asked for a in answers]) for asked, answers in TALK.items()]
    hello, about, able, thanks, bye = pairs[1], pairs[0], pairs[2], pairs[3], pairs[4]
    for _ in range(24):
        turns = [next(pair) for pair in (hello, about, able, thanks, bye)]
        contents = [content for turn in turns for content in turn]
        yield [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]
    yield from talk()
    yield from itertools.islice(stories(path, random.Random(0)), 24)


def write(file: Path, conversations: Iterable[list[dict]]) -> int:
    lines = [json.dumps({"messages": messages}, ensure_ascii=False) + "\n" for messages in conversations]
    file.write_text("".join(lines), encoding="utf-8")
    return len(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("coffee", "dialogues", "stories", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--most", type=int, default=4000, help="dialogues")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    made = {
        "coffee": coffee(options.coffee),
        "dialogues": dialogues(options.dialogues, options.most),
        "stories": stories(options.stories, random.Random(0)),
        "talk": talk(),
    }
    for name, conversations in made.items():
        print(f"{name}: {write(options.out / f'chat-{name}.jsonl', conversations)} conversations")
    write(options.out / "chat-sample.jsonl", sample(options.stories))


if __name__ == "__main__":
    main()
