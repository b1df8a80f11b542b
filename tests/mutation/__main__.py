# SPDX-License-Identifier: Apache-2.0
"""Mutants, and what tests say of them, as a file of JSON that is gone on with if it is there.

python -m tests.mutation ir RESULTS FOLDER... --count=200  draws mutants for the quick tier
python -m tests.mutation whole RESULTS FOLDER... --count=50  ... for the tests of table NEIGHBOURS
python -m tests.mutation known RESULTS [NAME...]  applies those of known.py
python -m tests.mutation again RESULTS  runs those that survived once more, by all tests
python -m tests.mutation table RESULTS  prints a table for docs/testing.md
"""

import argparse
import collections
import json
import random
import re
import sys
from dataclasses import asdict, replace
from pathlib import Path

from tests.mutation import c_mutants, python_mutants
from tests.mutation.known import KNOWN
from tests.mutation.mutant import Mutant, sources
from tests.mutation.runner import QUICK, WHOLE, copied_tree, failure, verdict_on, warm_up
from tests.support import ROOT

#: Tests of other folders that use a package, by the package.
NEIGHBOURS = {
    "bundle": ("tests/runtime", "tests/driver"),
    "native": ("tests/runtime", "tests/codegen/test_c.py", "tests/driver"),
    "rewrite": ("tests/driver",),
    "runtime": ("tests/driver",),
}
DEFAULT = ("-m", "not slow")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", choices=["ir", "whole", "known", "again", "table"])
    parser.add_argument("results", type=Path, help="a file of JSON, gone on with if it is there")
    parser.add_argument("names", nargs="*", help="folders to draw from, or names of known mutants")
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    found = json.loads(flags.results.read_text()) if flags.results.exists() else []
    if flags.what == "table":
        print(table(found))
        return
    mutants = [m for m in KNOWN if not flags.names or m.name in flags.names]
    if flags.what in ("ir", "whole"):
        mutants = drawn(flags.names, flags.count, flags.seed, flags.what == "ir")
    if flags.what == "again":
        mutants = [mutant_of(entry) for entry in found if not entry["killed"]]
    else:
        mutants = [m for m in mutants if m not in map(mutant_of, found)]
    run(flags.results, mutants, found)


def drawn(folders: list[str], count: int, seed: int, quick: bool) -> list[Mutant]:
    """So many mutants of the sources below folders, of which each is as likely."""
    texts = {file: (ROOT / file).read_text() for file in sources(ROOT, folders)}
    kinds = {".py": python_mutants.mutants}
    every = [
        mutant
        for file, text in texts.items()
        for mutant in kinds.get(Path(file).suffix, c_mutants.mutants)(file, text)
    ]
    random.Random(seed).shuffle(every)
    chosen = []
    while every and len(chosen) < count:
        mutant = every.pop()
        if mutant.file.endswith(".py") or c_mutants.compiles(ROOT, mutant):
            chosen.append(replace(mutant, tests=("-m ir",) if quick else ()))
    return chosen


def run(path: Path, mutants: list[Mutant], found: list[dict]) -> None:
    """Add the verdicts to the file, one by one. A test counts if it passes without the mutant."""
    quick = all(m.tests == ("-m ir",) for m in mutants)
    warm_up(QUICK if quick else WHOLE)
    with copied_tree() as root:
        sound = {""}
        for mutant in mutants:
            verdict = verdict_on(mutant, root, stages_of(mutant))
            if verdict.test not in sound and failure(root, [verdict.test]):
                output = (root.parent / "output").read_text()
                sys.exit(f"{verdict.test} fails without {mutant}, too:\n{output}")
            sound.add(verdict.test)
            found = [entry for entry in found if mutant_of(entry) != mutant]
            found.append({**asdict(mutant), **asdict(verdict)})
            path.write_text(json.dumps(found, indent=1))
            print(f"{mutant.file}:{mutant.line} {verdict.killed or 'SURVIVED'}", flush=True)


def stages_of(mutant: Mutant) -> list[list[str]]:
    """Arguments of pytest: the tests of the mutant's own folder, then others."""
    package = Path(mutant.file).parts[1]
    own = f"tests/{package}"
    if mutant.tests == ("-m ir",):
        others = {own, "tests/ir"}  # of which the package is below all others
        return [["-m", "ir", own], ["-m", "ir", "tests", *(f"--ignore={o}" for o in others)]]
    return [list(mutant.tests) or [*DEFAULT, *nearest(Path(mutant.file), own)]]


def nearest(module: Path, own: str) -> list[str]:
    """The tests of a module's folder and of its neighbours; those that name it most come first."""
    folders = [ROOT / folder for folder in (own, *NEIGHBOURS[module.parts[1]])]
    files = [f for folder in folders for f in (folder, *sorted(folder.rglob("test_*.py")))]
    tests = [file for file in files if file.is_file()]
    counts = {t: len(re.findall(rf"\b{module.stem}\b", t.read_text())) for t in tests}
    return [str(t.relative_to(ROOT)) for t in sorted(tests, key=lambda t: -counts[t])]


def mutant_of(entry: dict) -> Mutant:
    """The mutant of an entry of a file of results."""
    fields = {k: v for k, v in entry.items() if k in Mutant.__dataclass_fields__}
    return Mutant(**{**fields, "tests": tuple(fields["tests"])})


def table(found: list[dict]) -> str:
    """Markdown: mutants by package, those killed, and those that their own folder kills."""
    lines = ["| package | mutants | killed | by tests of its folder |", "|---|---|---|---|"]
    groups = collections.defaultdict(list)
    for entry in found:
        groups[str(Path(entry["file"]).parent).removeprefix("sirius_tf/")].append(entry)
    for name, group in [*sorted(groups.items()), ("all", found)]:
        killed = [e for e in group if e["killed"]]
        own = [e for e in killed if e["killed"].startswith(f"tests/{Path(e['file']).parts[1]}/")]
        share, near = (f"{len(some)} ({100 * len(some) // len(group)} %)" for some in (killed, own))
        lines.append(f"| {name} | {len(group)} | {share} | {near} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
