"""Fetch an artifact, of another run with a token only."""

import os
import shutil
from pathlib import Path

run, name = os.environ["ARTIFACT_RUN"], os.environ["ARTIFACT_NAME"]
if run != os.environ["GITHUB_RUN_ID"] and not os.environ["ARTIFACT_TOKEN"]:
    raise SystemExit("the artifact of another run needs github-token")
kept = Path(os.environ["RAIL_ARTIFACTS"], run, name)
if not kept.is_dir():
    raise SystemExit(f"Artifact not found for name: {name}")
shutil.copytree(kept, os.environ["ARTIFACT_PATH"], dirs_exist_ok=True)
