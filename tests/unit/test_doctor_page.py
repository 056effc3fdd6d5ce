"""docs/doctor.md tells each check, and its commands are ones that can be run."""

from __future__ import annotations

import re
from pathlib import Path

from trilho.doctor import CHECKS

PAGE = (Path(__file__).parents[2] / "docs/doctor.md").read_text(encoding="utf-8")


def test_the_page_lists_every_check_in_its_order() -> None:
    rows = re.findall(r"^\| (\w+) \| ([\w -]+) \| ", PAGE, re.MULTILINE)
    assert rows[0] == ("Area", "Check")
    assert rows[1:] == [(check.area, check.name) for check in CHECKS]
