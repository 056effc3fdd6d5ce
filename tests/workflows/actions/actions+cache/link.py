"""Link a folder to the one that is kept under its key; uv finds the machine's own cache in it."""

import hashlib
import os
from pathlib import Path

path, key = Path(os.environ["CACHE_PATH"]), os.environ["CACHE_KEY"]
if "\n" in str(path).strip():
    raise SystemExit("the stand-in keeps one folder only")
kept = Path(os.environ["RAIL_CACHES"], hashlib.sha256(key.encode()).hexdigest())
hit = kept.is_dir() and any(kept.iterdir())
kept.mkdir(parents=True, exist_ok=True)
if key.startswith("trilho-uv") and not hit:
    (kept / "uv").symlink_to(os.environ["RAIL_UV_CACHE"])
path.parent.mkdir(parents=True, exist_ok=True)
if path.is_symlink():
    path.unlink()
path.symlink_to(kept)
with open(os.environ["GITHUB_OUTPUT"], "a") as file:
    file.write(f"cache-hit={str(hit).lower()}\n")
