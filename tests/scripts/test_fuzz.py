"""scripts/fuzz: its count of lines run is right. That it finds what is planted `scripts/fuzz --self-test` shows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.fuzz import coverage

if TYPE_CHECKING:
    from pathlib import Path

C = """static void tools(void) {
  /* "zlay/_fast/verdicts.pyx":1
  x();
}
static int __pyx_f_judge(int a) {
  int r;

  /* "zlay/_fast/verdicts.pyx":2
 *     if a:             # <<<<<<<<<<<<<<
 */
  if (a) {

    /* "zlay/_fast/verdicts.pyx":3
 */
    r = 1;

    /* "zlay/_fast/verdicts.pyx":2
 */
  }

  /* "zlay/_fast/verdicts.pyx":4
 */
  r = 2;
}
"""


def test_lines_run_are_those_of_the_source(tmp_path: Path) -> None:
    """A line of Cython counts as run when any C of a function without Python that came from it was."""
    path = tmp_path / "verdicts.c"
    path.write_text(C, encoding="utf-8")
    counts = {3: 5, 5: 7, 11: 7, 15: 0, 19: 7, 23: 0}
    record = [f"SF:{path}", "FN:1,verdicts.c:tools", "FN:5,verdicts.c:__pyx_f_judge"]
    record += [f"DA:{line},{count}" for line, count in counts.items()]
    found: dict[str, coverage.Lines] = {}
    coverage.add_record("\n".join(record), found)
    assert found["verdicts.pyx"].run == {2: True, 3: False, 4: False}
    assert found["verdicts.pyx"].missed == [3, 4]
