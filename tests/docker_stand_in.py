"""A program that stands in for docker, and what it was called with.

Its contract, which docker and podman keep:

- `build --platform P --target T --tag NAME FOLDER` makes an image and ends with 0; what went wrong
  stands on standard error, and it ends with another code.
- `login --username U --password-stdin HOST` reads a password; `logout HOST` forgets it.
- `push NAME` puts the image into the registry that its name begins with, which refuses a tag that
  it has already when its tags are immutable.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

SCRIPT = f"""\
#!{sys.executable}
import json, os, pathlib, sys
here = pathlib.Path(__file__).parent
says = sys.stdin.read() if "--password-stdin" in sys.argv else None
with open(here / "called", "a") as out:
    out.write(json.dumps([sys.argv[1:], says]) + "\\n")
fails = here / f"{{sys.argv[1]}} fails"
if fails.exists():
    print(fails.read_text(), file=sys.stderr)
    sys.exit(1)
if sys.argv[1] == "push":
    import boto3
    name, _, tag = sys.argv[2].rpartition(":")
    layer = {{"digest": "sha256:" + "0" * 64, "size": 2, "mediaType": "application/json"}}
    manifest = {{"schemaVersion": 2, "config": layer, "layers": [],
                "mediaType": "application/vnd.oci.image.manifest.v1+json"}}
    ecr = boto3.client("ecr", region_name=os.environ["AWS_REGION"])
    ecr.put_image(repositoryName=name.partition("/")[2], imageTag=tag,
                  imageManifest=json.dumps(manifest))
"""


class Docker:
    """The program, in a folder that is put on PATH."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        (folder / "docker").write_text(SCRIPT)
        (folder / "docker").chmod(0o755)

    def fails(self, operation: str, said: str) -> None:
        """Let an operation fail from now on."""
        (self.folder / f"{operation} fails").write_text(said)

    @property
    def called(self) -> list[tuple[list[str], str | None]]:
        """Arguments and standard input of each call since the last look."""
        path = self.folder / "called"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return [tuple(json.loads(line)) for line in lines]
