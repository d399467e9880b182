"""The licence of every pinned package, from what is installed: `python tools/licences.py docs/licences.md`.

Ends with exit code 1 if one that the package cannot do without may not be distributed with Apache-2.0 software.
"""

import re
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
DENIED = re.compile(r"\bA?GPL|(?<!lesser )general public license|^unknown$", re.I)
SPELLED = {  # what some write in their metadata where others write the SPDX name
    "apache": "Apache-2.0",
    "apache 2": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache 2.0 license": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache license version 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "apache-2.0": "Apache-2.0",
    "bsd license": "BSD",
    "gnu lesser general public license v2 or later (lgplv2+)": "LGPL-2.0-or-later",
    "gnu lesser general public license v3 (lgplv3)": "LGPL-3.0-only",
    "isc license (iscl)": "ISC",
    "mit license": "MIT",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "python software foundation license": "PSF-2.0",
    "the mit license (mit)": "MIT",
}
UNSAID = {"torchao": "BSD-3-Clause"}  # read from the licence that comes with a package whose metadata names none


def pinned(text: str) -> dict[str, str]:
    """The versions that a constraints file names, by name."""
    lines = (line.partition("#")[0].partition("==") for line in text.splitlines())
    return {str(canonicalize_name(name.strip())): version.strip() for name, equals, version in lines if equals}


def licence(name: str) -> str:
    """What an installed package says its licence is; where it says nothing, "unknown"."""
    about = distribution(name).metadata
    if expression := about.get("License-Expression"):
        return expression
    classes = [one.rpartition(" :: ")[2] for one in about.get_all("Classifier", []) if one.startswith("License ::")]
    named = classes or [(about.get("License") or "").partition("\n")[0].strip()]
    found = sorted({SPELLED.get(one.lower(), one) for one in named if one and one != "OSI Approved"})
    return " OR ".join(found) or UNSAID.get(name, "unknown")


def needed(name: str, extras: frozenset[str] = frozenset(), seen: set[str] | None = None) -> set[str]:
    """A package and all that it cannot do without on this machine."""
    seen = set() if seen is None else seen
    for line in distribution(name).requires or []:
        wanted = Requirement(line)
        key = str(canonicalize_name(wanted.name))
        if key in seen or wanted.marker and not any(wanted.marker.evaluate({"extra": e}) for e in extras or {""}):
            continue
        try:
            distribution(key)
        except PackageNotFoundError:
            continue  # such as the parts of CUDA, of an installation for the CPU
        seen.add(key)
        needed(key, frozenset(wanted.extras), seen)
    return seen


def denied(licences: dict[str, str]) -> list[str]:
    """The packages whose licence leaves no choice but one that Apache-2.0 software cannot be distributed under."""
    return [name for name, text in licences.items() if all(DENIED.search(one) for one in text.split(" OR "))]


ABOUT = """\
# Licences of dependencies

Sfumato is distributed under Apache-2.0 and contains no code of these packages: pip installs them beside it. The
versions are those of `constraints.txt`; the licences are what the packages say themselves. `make licences` writes this
page. It leaves out the CUDA libraries that PyTorch brings along for a GPU, which have NVIDIA's own licence.
"""


def page(versions: dict[str, str]) -> Iterator[str]:
    """The lines of docs/licences.md."""
    core = needed("sfumato")
    yield ABOUT
    for title, chosen in (("Always installed", core), ("For extras, tests and these pages", versions.keys() - core)):
        yield f"## {title}\n\n| package | version | licence |\n|---|---|---|"
        yield from (f"| {name} | {versions[name]} | {licence(name)} |" for name in sorted(chosen & versions.keys()))
        yield ""


def main(path: str) -> int:
    """Write the page; the exit code is 1 where a needed package has a licence that is denied."""
    versions = pinned((ROOT / "constraints.txt").read_text("utf-8"))
    Path(path).write_text("\n".join(page(versions)).rstrip() + "\n", encoding="utf-8")
    if bad := denied({name: licence(name) for name in sorted(needed("sfumato") & versions.keys())}):
        print(f"licences: needed, but in conflict with Apache-2.0: {', '.join(bad)}", file=sys.stderr)
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
