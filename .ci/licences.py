"""Write the licences of all installed dependencies as a table: `make licences`.

    python .ci/licences.py PIP-LICENSES OUT

The exit code is 1 if a licence is not in :data:`ACCEPTED`. Somebody then has to read it, and accept it or drop the
package.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

#: Licences that a dependency of an Apache-2.0 project may have, in the words of package authors.
ACCEPTED = re.compile(
    r"\b(apache|bsd|mit|isc|psf|python software foundation|mpl|mozilla public license 2|hpnd|mit-cmu|unlicense|zlib|cc0"
    r"|0bsd|blueoak|lgpl|gnu lesser|public domain|cc.by.sa.4|boost|bsl-1)",
    re.IGNORECASE,
)
#: Package whose licence was read by hand -> why it is acceptable.
BY_HAND: dict[str, str] = {}

HEAD = """# Licences of dependencies

`make licences` writes this page; do not edit it. It lists the packages that `make test` installs on Python {python} for
the package, its extras and the tests. \\* marks those that `pip install feddat` installs.

| package | version | licence |
| --- | --- | --- |
"""


def locked() -> set[str]:
    """Return the normalised names of the packages in the lock files."""
    texts = [(Path("requirements") / name).read_text(encoding="utf-8") for name in ("lock.txt", "torch.txt")]
    return set(re.findall(r"^([a-z0-9-]+)==", "\n".join(texts), re.MULTILINE))


def needed(python: Path) -> set[str]:
    """Return the normalised names of the direct and indirect dependencies without extras."""
    code = """
import json, re
from importlib.metadata import PackageNotFoundError, requires
from packaging.requirements import Requirement
found, waiting = set(), [("feddat", "")]
while waiting:
    name, extras = waiting.pop()
    key = re.sub(r"[-_.]+", "-", name).lower()
    if (key, extras) in found:
        continue
    found.add((key, extras))
    try:
        texts = requires(name) or []
    except PackageNotFoundError:
        continue
    for one in map(Requirement, texts):
        if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in extras.split(",")):
            waiting.append((one.name, ",".join(sorted(one.extras))))
print(json.dumps(sorted({key for key, _ in found})))
"""
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def main(program: str, out: Path) -> None:
    """Run pip-licenses, write the table, and check the licences."""
    command = [
        program,
        "--python",
        sys.executable,
        "--from",
        "mixed",
        "--format",
        "json",
        "--ignore-packages",
        "feddat",
    ]
    rows = json.loads(subprocess.run([*command, "--with-system"], capture_output=True, text=True, check=True).stdout)
    core, known, lines, odd = needed(Path(sys.executable)), locked(), [], []
    for row in sorted(rows, key=lambda row: row["Name"].lower()):
        name, licence = row["Name"], " ".join(row["License"].split())
        key = re.sub(r"[-_.]+", "-", name).lower()
        if key not in known:
            continue
        if len(licence) > 80:  # some packages give the whole text instead of a name
            licence = licence[:60].rstrip() + " …"
        star = " \\*" if key in core else ""
        lines.append(f"| {name}{star} | {row['Version'].split('+')[0]} | {licence.replace('|', '/')} |\n")
        if not ACCEPTED.search(licence) and name not in BY_HAND:
            odd.append(f"{name}: {licence}")
    python = ".".join(map(str, sys.version_info[:2]))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(HEAD.format(python=python) + "".join(lines), encoding="utf-8")
    print(f"{len(lines)} packages in {out}")
    if odd:
        sys.exit("licences to review:\n" + "\n".join(odd))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
