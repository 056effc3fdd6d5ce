"""Keep an artifact as GitHub does: no hidden files unless asked for, paths from a common folder."""

import os
import shutil
from pathlib import Path

name, hidden = os.environ["ARTIFACT_NAME"], os.environ["ARTIFACT_HIDDEN"] == "true"
here = Path.cwd()
given = [here / line.strip() for line in os.environ["ARTIFACT_PATH"].splitlines() if line.strip()]
files = [
    file
    for path in given
    for file in ([path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()))
    if hidden or not any(part.startswith(".") for part in file.relative_to(here).parts)
]
if not files:
    print(f"::{os.environ['ARTIFACT_NONE']}::No files were found with the provided path: {given}")
    raise SystemExit(os.environ["ARTIFACT_NONE"] == "error")
kept = Path(os.environ["RAIL_ARTIFACTS"], os.environ["GITHUB_RUN_ID"], name)
if kept.exists():
    if os.environ["ARTIFACT_OVERWRITE"] != "true":
        raise SystemExit(f"an artifact {name} exists already")
    shutil.rmtree(kept)
root = given[0] if len(given) == 1 and given[0].is_dir() else Path(os.path.commonpath(given))
root = root.parent if root.is_file() else root
for file in files:
    target = kept / file.relative_to(root)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(file, target)
