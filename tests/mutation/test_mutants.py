# SPDX-License-Identifier: Apache-2.0
"""Mutants: which ones there are of a text."""

import pytest

from tests.mutation import c_mutants, python_mutants
from tests.mutation.mutant import Mutant

PYTHON = """\
def f(x: int | None, y=1):
    if x < y and not x:
        return min(x, y)
    assert x > 0, f"{x + 1}"
    return [a for a in x if a]
"""
OF_PYTHON = {
    "def f(x: int | None, y=(2)):",
    "    if (x < y or not x):",
    "    if (x <= y) and not x:",
    "    if (x >= y) and not x:",
    "    if x < y and (x):",
    "    if (not (x < y and (not x))):",
    "        return (max(x, y))",
    "        return None",
    "    return [a for a in x if (True)]",
    "    return None",
}
C = """\
int g();
int f(int a) { /* a < 1 */
  if (a <= 2 && g(a)) return a + 1;
  a = 0;
  g("a < b");
  return 0;
}
"""
OF_C = {
    "  if (a < 2 && g(a)) return a + 1;",
    "  if (a > 2 && g(a)) return a + 1;",
    "  if (a <= 2 || g(a)) return a + 1;",
    "  if (a <= 3 && g(a)) return a + 1;",
    "  if (a <= 2 && g(a)) return a - 1;",
    "  if (a <= 2 && g(a)) return a + 2;",
    "  if (!(a <= 2 && g(a))) return a + 1;",
    "  if (a <= 2 && g(a)) return 0;",
    "  a = 1;",
    "  return 1;",
    "  ;",
}


@pytest.mark.ir
@pytest.mark.parametrize(
    ("mutants", "text", "want"),
    [(python_mutants.mutants, PYTHON, OF_PYTHON), (c_mutants.mutants, C, OF_C)],
)
def test_mutants_of_a_text(mutants, text, want):
    made = [mutant for mutant in mutants("file", text) if mutant.applied(text) != text]
    assert {mutant.after.rstrip("\n") for mutant in made} == want


def test_only_what_compiles_is_a_mutant(tmp_path):
    (tmp_path / "file.c").write_text(C)
    good = Mutant("file.c", "  a = 0;\n", "  a = 1;\n")
    bad = Mutant("file.c", "  a = 0;\n", "  b = 0;\n")
    assert [c_mutants.compiles(tmp_path, m) for m in (good, bad)] == [True, False]


@pytest.mark.ir
def test_the_nearest_place_counts():
    text = "a\nb\na\nb\na\n"
    assert Mutant("file", "a\n", "c\n", 4).applied(text) in ("a\nb\nc\nb\na\n", "a\nb\na\nb\nc\n")
    assert Mutant("file", "a\n", "c\n", 1).applied(text) == "c\nb\na\nb\na\n"
    for missing in (Mutant("file", "a\n", "c\n"), Mutant("file", "d", "c", 1)):
        with pytest.raises(ValueError, match="occurs"):
            missing.applied(text)
