"""The registry: what is added stays as it is, what is promoted can be undone, and no crash leaves it in between."""

import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sfumato.store.files import Locked, append_line, locked, read_lines
from sfumato.store.registry import Event, Registry, RegistryError, stack

GOOD = {"passed": True}


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "pilot", create=True)


def bundle(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(text)
    (folder / "model.safetensors").write_bytes(text.encode() * 100)
    return folder


def add(registry: Registry, name: str, **about):
    return registry.add(bundle(registry.folder.parent / f"bundle-{name}", name), f"{name:0>12}", **about)


def test_a_version_is_a_copy_with_its_lineage(registry, tmp_path):
    first = add(registry, "a", note="from elsewhere")
    second = add(registry, "b", parent=first.id, dataset="d1", recipes=["name = 'x'\n"], evidence=GOOD)
    (tmp_path / "bundle-a" / "config.json").write_text("changed")
    assert (registry.model(first) / "config.json").read_text() == "a"
    assert [version.id for version in registry.lineage(second)] == [second.id, first.id]
    assert registry.evidence(second) == GOOD and registry.evidence(first) is None
    assert Registry(registry.folder).versions() == [first, second]
    assert first.id.endswith("-00000000000a") and second.recipes == ("name = 'x'\n",)
    assert not (registry.model(first) / "config.json").stat().st_mode & 0o222


def test_the_same_model_is_one_version_and_a_new_judgement_replaces_the_old_one(registry):
    first = add(registry, "a", evidence={"passed": False})
    assert add(registry, "a", evidence=GOOD) == first and add(registry, "a") == first
    assert registry.evidence(first) == {"passed": True, "earlier": [{"passed": False}]}
    assert len(registry.versions()) == 1


def test_what_is_no_version_is_left_alone(registry):
    version = add(registry, "a")
    (registry.folder / "versions" / "notes.txt").write_text("of a person")
    (registry.folder / "versions" / "half").mkdir()
    assert registry.versions() == [version]


def test_versions_are_found_by_a_part_of_their_name(registry):
    first, second = add(registry, "a"), add(registry, "b")
    assert registry.find("00a") == first and registry.find(second.id) == registry.find("newest") == second
    with pytest.raises(RegistryError, match="several versions are called so"):
        registry.find("0000")
    with pytest.raises(RegistryError, match="xyz: no such version; there are .*00a, .*00b"):
        registry.find("xyz")
    with pytest.raises(RegistryError, match="no version is current yet"):
        registry.find("current")
    with pytest.raises(RegistryError, match="no such version"):
        add(registry, "c", parent="2026-01-01-nothing")


def test_nothing_is_promoted_without_evidence_unless_somebody_says_why(registry):
    unknown, bad, good = (
        add(registry, "a"),
        add(registry, "b", evidence={"passed": False}),
        add(registry, "c", evidence=GOOD),
    )
    for version, why in ((unknown, "it has no evidence"), (bad, "its evidence speaks against it")):
        with pytest.raises(RegistryError, match=why):
            registry.promote(version)
        with pytest.raises(RegistryError, match="expected a reason"):
            registry.promote(version, force=True, reason=" ")
    assert registry.history() == []
    registry.promote(unknown, force=True, reason="the first", by="ada")
    registry.promote(good)
    forced, free = registry.history()
    assert (forced.forced, forced.reason, forced.by, forced.previous) == (True, "the first", "ada", "")
    assert not free.forced and free.previous == unknown.id and registry.current() == good
    assert registry.promote(good) is None and len(registry.history()) == 2


def test_rolling_back_goes_back_and_back(registry):
    a, b, c = (add(registry, name, evidence=GOOD) for name in "abc")
    with pytest.raises(RegistryError, match="nothing to go back to"):
        registry.rollback()
    for version in (a, b, c):
        registry.promote(version)
    assert registry.rollback().version == b.id and registry.current() == b
    assert registry.rollback(reason="worse").version == a.id
    with pytest.raises(RegistryError, match="nothing to go back to"):
        registry.rollback()
    registry.promote(c)
    registry.promote(b)
    with pytest.raises(RegistryError, match="was not current before"):
        registry.rollback(b)
    registry.rollback(a)
    assert registry.current() == a and [event.event for event in registry.history()][-3:] == ["promote"] * 2 + [
        "rollback"
    ]


def test_the_history_replays_to_what_can_be_gone_back_to():
    def replay(words: str) -> str:
        names = {"+": "promote", "-": "rollback"}
        return "".join(stack([Event("", names[word[0]], word[1]) for word in words.split()]))

    assert replay("") == "" and replay("+a +b +a") == "aba"
    assert replay("+a +b +a -b") == "ab" and replay("+a +b +a -a") == "a"
    assert replay("+a +b -a +c +b -c") == "ac" and replay("+a +b +c -a") == "a"


def test_a_promotion_may_expect_what_was_current(registry):
    a, b, c = (add(registry, name, evidence=GOOD) for name in "abc")
    registry.promote(a, expected="")
    registry.promote(b)
    with pytest.raises(RegistryError, match=f"{b.id} is current now, expected {a.id}"):
        registry.promote(c, expected=a.id)
    assert registry.current() == b


def test_a_version_that_somebody_changed_is_not_served(registry):
    a, b = (add(registry, name, evidence=GOOD) for name in "ab")
    registry.promote(a)
    registry.promote(b)
    for version in (a, b):
        (registry.model(version) / "config.json").chmod(0o644)
        (registry.model(version) / "config.json").write_text("other")
    with pytest.raises(RegistryError, match="somebody has changed it"):
        registry.rollback()
    with pytest.raises(RegistryError, match="somebody has changed it"):
        registry.promote(a)
    assert registry.current() == b


def test_a_torn_line_is_no_line(registry):
    a, b = (add(registry, name, evidence=GOOD) for name in "ab")
    registry.promote(a)
    history = registry.folder / "history.jsonl"
    whole = history.read_bytes()
    history.write_bytes(whole + b'{"time": "2026", "event": "promote", "ver')
    assert registry.current() == a
    registry.promote(b)
    assert registry.current() == b and len(registry.history()) == 2 and history.read_bytes().startswith(whole)
    history.write_bytes(b"nonsense\n" + whole)
    with pytest.raises(RegistryError, match="history.jsonl:1: damaged"):
        registry.current()


def test_what_has_changed_shows_in_the_stamp(registry):
    a, b = (add(registry, name, evidence=GOOD) for name in "ab")
    stamps = [registry.stamp()]
    for change in (lambda: registry.promote(a), lambda: registry.promote(b), registry.rollback):
        change()
        stamps.append(registry.stamp())
    assert len(set(stamps)) == 4
    add(registry, "c")
    assert registry.stamp() == stamps[-1]


def test_no_registry_is_told(tmp_path):
    with pytest.raises(RegistryError, match="there is none; begin one: sfumato models add"):
        Registry(tmp_path / "nowhere")


def test_a_full_disk_leaves_the_registry_as_it_was(registry, disk_full):
    a = add(registry, "a", evidence=GOOD)
    registry.promote(a)
    large = bundle(registry.folder.parent / "large", "x" * 1000)
    with disk_full(4096), pytest.raises(OSError):
        registry.add(large, "f" * 12)
    assert registry.versions() == [a] and registry.current() == a
    assert [path.name for path in (registry.folder / "versions").iterdir()] == [a.id]
    history = registry.folder / "history.jsonl"
    before = history.read_bytes()
    with disk_full(len(before) + 10), pytest.raises(OSError, match="what was there is intact"):
        append_line(history, "x" * 100)
    assert history.read_bytes() == before


def test_two_writers_take_turns(tmp_path):
    with locked(tmp_path / ".lock"):
        with pytest.raises(Locked, match="another process is at work"), locked(tmp_path / ".lock", wait=0.05):
            pass
    done = []

    def write(name: int) -> None:
        for _ in range(20):
            with locked(tmp_path / ".lock"):
                lines = len(read_lines(tmp_path / "log"))
                append_line(tmp_path / "log", f"{lines}")
        done.append(name)

    threads = [threading.Thread(target=write, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read_lines(tmp_path / "log") == [str(i) for i in range(60)] and len(done) == 3


WRITER = """
import sys
from pathlib import Path
from sfumato.store.registry import Registry
folder = Path(sys.argv[1])
registry = Registry(folder / "pilot", create=True)
number = int(sys.argv[2])
while True:
    number += 1
    bundle = folder / "bundle"
    bundle.mkdir(exist_ok=True)
    (bundle / "model.safetensors").write_bytes(bytes([number % 251]) * 200_000)
    (bundle / "config.json").write_text(str(number))
    version = registry.add(bundle, f"{number:012d}", evidence={"passed": True})
    registry.promote(version)
    print(version.id, flush=True)
    if number % 3 == 0:
        print(registry.rollback().version, flush=True)
"""


def test_a_kill_at_any_moment_leaves_a_registry_that_works(tmp_path):
    chance, number = random.Random(5), 0
    for _ in range(6):
        command = [sys.executable, "-c", WRITER, str(tmp_path), str(number)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout
            acknowledged = [writer.stdout.readline().strip()]
            time.sleep(chance.uniform(0, 0.1))
            writer.send_signal(signal.SIGKILL)
            acknowledged += writer.stdout.read().split()
        registry = Registry(tmp_path / "pilot")
        versions = registry.versions()
        number = int(versions[-1].fingerprint)
        current = registry.current()
        # What was acknowledged has happened; one more step may have, and nothing is half done.
        assert acknowledged[-1] in [event.version for event in registry.history()[-2:]]
        for version in versions[-3:]:
            registry._check(version)
            assert registry.evidence(version) == {"passed": True}
        assert current in versions
        if registry.promote(versions[0]):
            registry.rollback()
        assert registry.current() == current
