"""Ask pip-audit what is known against the versions in a constraints file: `python tools/audit.py constraints.txt`.

Exit code 0: every package was looked up, and nothing is known. 1: something is. 2: not all could be looked up, which
is never taken for good news.
"""

import json
import subprocess
import sys
from pathlib import Path


def verdict(report: str, wanted: int) -> tuple[int, list[str]]:
    """The exit code, and what to say.

    Args:
        report: what pip-audit printed, JSON if it got that far.
        wanted: how many packages were to be looked up.
    """
    try:
        packages = json.loads(report)["dependencies"]
    except (ValueError, KeyError, TypeError):
        return 2, ["NOT AUDITED: pip-audit gave no report, so nothing is known about any package"]
    lines = []
    for package in packages:
        for found in package.get("vulns", ()):
            repair = ", ".join(found.get("fix_versions", ())) or "no version yet"
            lines.append(f"{package['name']} {package.get('version')}: {found['id']}, repaired in {repair}")
    missing = wanted - sum("vulns" in package for package in packages)
    if missing:
        why = next((package["skip_reason"] for package in packages if "skip_reason" in package), "left out")
        return 2, [*lines, f"NOT AUDITED: nothing is known about {missing} of {wanted} packages; the first: {why}"]
    return (1, lines) if lines else (0, [f"{wanted} packages looked up, no vulnerability known"])


def main(path: str) -> int:
    """Look up what a constraints file names."""
    wanted = sum("==" in line.partition("#")[0] for line in Path(path).read_text("utf-8").splitlines())
    command = ["-m", "pip_audit", "--requirement", path, "--no-deps", "--disable-pip", "--format", "json"]
    done = subprocess.run([sys.executable, *command, "--progress-spinner", "off"], capture_output=True, text=True)
    code, lines = verdict(done.stdout, wanted)
    if not done.stdout and done.stderr.strip():
        lines[-1] += f"; it said: {done.stderr.strip().splitlines()[-1]}"
    print("\n".join(f"audit: {line}" for line in lines), file=sys.stderr if code else sys.stdout)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
