"""Feedback as items: the last word counts, people who contradict each other cancel out, what is no use is left out."""

from datetime import UTC, datetime, timedelta

from sfumato.improve.items import Item, gather, opening
from sfumato.store.records import Feedback, Response

BEGIN = datetime(2031, 1, 1, tzinfo=UTC)


class People:
    """Writes records, each a second after the one before."""

    def __init__(self):
        self.records, self.responses = [], {}

    def answered(self, id: str, text: str, prompt="Hi", kind: str = "chat", model: str = "pilot") -> None:
        said = [{"role": "user", "content": prompt}] if isinstance(prompt, str) and kind == "chat" else prompt
        about = {"kind": kind, "model": model, "model_version": "0f", "seed": 1}
        self.responses[id] = Response(id=id, prompt=said, completion=text, **about)

    def say(self, response: str, kind: str, owner: str | None = "ada", **what) -> None:
        number = len(self.records)
        moment = BEGIN + timedelta(seconds=number)
        feedback = Feedback(id=f"f{number}", response_id=response, kind=kind, owner=owner, created=moment, **what)
        over = self.responses[what["over"]] if "over" in what else None
        self.records.append((feedback, self.responses[response], over))


def short(items: list[Item]) -> set[tuple]:
    return {
        (item.kind, item.response, item.weight) if item.kind == "answer" else (item.chosen, item.rejected, item.weight)
        for item in items
    }


def test_each_kind_of_feedback_becomes_what_it_says():
    people = People()
    for id, text in zip("abcdef", ("meh", "good", "bad", "fine", "best", "other"), strict=True):
        people.answered(id, text, prompt=f"Hi {id in 'bc'}")
    people.say("a", "correction", correction=" better ")
    people.say("b", "thumb", value=1)
    people.say("c", "rating", value=1)
    people.say("d", "rating", value=3)
    people.say("e", "preference", over="f")
    found = gather(people.records)
    assert short(found.items) == {
        ("answer", "better", 1.0),
        ("better", "meh", 1.0),
        ("answer", "good", 0.5),
        ("good", "bad", 0.5),
        ("best", "other", 1.0),
    }
    better = next(item for item in found.items if item.response == "better")
    assert better.prompt == [{"role": "user", "content": "Hi False"}] and better.origins == ("f0",) and better.keep
    assert better.latest == "2031-01-01T00:00:00+00:00" == found.first
    assert found.cursor == ("2031-01-01T00:00:04+00:00", "f4") and found.read == 5 and not found.left_out


def test_who_says_something_again_has_changed_their_mind():
    people = People()
    people.answered("a", "text")
    for value in (1, -1, 1, 1, -1, 1):
        people.say("a", "thumb", value=value)
    people.say("a", "correction", correction="first")
    people.say("a", "correction", correction="last")
    found = gather(people.records)
    assert short(found.items) == {("answer", "text", 0.5), ("answer", "last", 1.0), ("last", "text", 1.0)}
    assert found.left_out == {"somebody's last word replaced it": 6}


def test_one_person_counts_once_many_count_more_up_to_a_limit():
    people = People()
    people.answered("a", "text")
    for owner in ("ada", "bob", "cid", "dan", "eve"):
        people.say("a", "correction", owner, correction="better")
    assert short(gather(people.records[:2]).items) == {("answer", "better", 2.0), ("better", "text", 2.0)}
    assert short(gather(people.records).items) == {("answer", "better", 3.0), ("better", "text", 3.0)}


def test_one_person_does_not_outvote_others_by_asking_again():
    """The same text came 1000 times, and each time the same person liked it, and corrected another one."""
    people = People()
    for i in range(200):
        people.answered(f"a{i}", "text")
        people.say(f"a{i}", "thumb", "eve", value=1)
        people.say(f"a{i}", "correction", "eve", correction="worse")
    worse = {("answer", "worse", 1.0), ("worse", "text", 1.0)}
    assert short(gather(people.records).items) == worse | {("answer", "text", 0.5)}
    for owner in ("ada", "bob"):
        people.say("a0", "thumb", owner, value=-1)
    assert short(gather(people.records).items) == worse


def test_where_nobody_has_a_name_each_response_is_somebodys():
    people = People()
    for id in "ab":
        people.answered(id, "text")
        people.say(id, "correction", None, correction="better")
    assert short(gather(people.records).items) == {("answer", "better", 2.0), ("better", "text", 2.0)}


def test_people_who_contradict_each_other_cancel_out():
    people = People()
    people.answered("a", "one")
    people.answered("b", "two")
    people.say("a", "preference", "ada", over="b")
    people.say("b", "preference", "bob", over="a")
    people.say("a", "thumb", "ada", value=1)
    people.say("a", "thumb", "bob", value=-1)
    assert gather(people.records).items == []
    people.say("a", "preference", "cid", over="b")
    assert short(gather(people.records).items) == {("one", "two", 1.0)}


def test_the_same_text_from_several_responses_is_one_item():
    people = People()
    for id in "abc":
        people.answered(id, "text")
        people.say(id, "correction", "ada", correction="better")
    (answer, pair) = sorted(gather(people.records).items, key=lambda item: item.kind)
    assert answer.origins == pair.origins == ("f0", "f1", "f2")


def test_what_is_no_use_is_left_out_and_counted():
    people = People()
    people.answered("text", "text", prompt="once", kind="completion")
    people.answered("robot", "text", prompt=[{"role": "robot", "content": "x"}])
    people.answered("answered", "text", prompt=[{"role": "assistant", "content": "x"}])
    people.answered("odd", "text\ud800")
    people.answered("mine", "text", prompt="one")
    people.answered("other", "text", prompt="two")
    people.answered("same", "text", prompt="two")
    people.answered("elsewhere", "text", model="tiny")
    for id in ("text", "robot", "answered", "odd", "elsewhere"):
        people.say(id, "correction", correction="better")
    people.say("mine", "correction", correction=" \n")
    people.say("mine", "preference", over="other")
    people.say("same", "preference", over="other")
    found = gather(people.records, models=("pilot",))
    assert found.items == [] and found.left_out == {
        "not about a chat": 1,
        "not a conversation": 2,
        "characters that no text may hold": 1,
        "about another model": 1,
        "an empty correction": 1,
        "the texts answer different prompts": 1,
        "both texts are the same": 1,
    }
    assert short(gather(people.records, kind="completion").items) == {
        ("answer", "better", 1.0),
        ("better", "text", 1.0),
    }


def test_a_correction_to_the_same_text_approves_it():
    people = People()
    people.answered("a", "text")
    people.say("a", "correction", correction="text ")
    assert short(gather(people.records).items) == {("answer", "text", 0.5)}


def test_every_text_goes_through_the_hook():
    people = People()
    people.answered("a", "call 555", prompt="I am Ada, 555")
    people.say("a", "correction", correction="call 555 or 556")
    found = gather(people.records, redact=lambda text: text.replace("555", "[number]"))
    assert "555" not in str(found.items) and "call [number] or 556" in str(found.items)


def test_items_do_not_depend_on_the_order_of_people():
    people = People()
    for id in "abcd":
        people.answered(id, f"text {id}", prompt="Hi" if id < "c" else "Ho")
        people.say(id, "correction", id, correction="better")
        people.say(id, "thumb", id, value=1 if id in "ac" else -1)
    there, back = gather(people.records).items, gather(people.records[::-1]).items
    assert [item.id for item in there] == [item.id for item in back]
    assert [item.weight for item in there] == [item.weight for item in back]


def test_an_opening_is_the_first_thing_a_user_says():
    talk = [{"role": "system", "content": "Be kind"}, {"role": "user", "content": "  Hello\n THERE ﬁne"}]
    later = [*talk, {"role": "assistant", "content": "x"}, {"role": "user", "content": "more"}]
    assert opening(talk) == opening(later) == opening("hello there fine") == "hello there fine"
