"""A repository in place of CML's: `setup-cml` fetches and installs it as it does the real one."""

from __future__ import annotations

import json
from pathlib import Path

from rail import Repository

PROGRAM = """
const {{ spawnSync }} = require('node:child_process')
const given = process.argv.slice(2)
if (given[0] === '--version') {{
  console.log('0.20.6')
}} else {{
  process.exitCode = spawnSync('python3', [{stand_in}, ...given], {{ stdio: 'inherit' }}).status
}}
"""


def make(path: Path) -> Repository:
    """Make a repository whose `bin/cml.js` is `cml_stand_in.py`."""
    package = {"name": "cml", "version": "0.20.6"}
    lock = {**package, "lockfileVersion": 3, "requires": True, "packages": {"": package}}
    stand_in = str(Path(__file__).with_name("cml_stand_in.py"))
    (path / "bin").mkdir(parents=True)
    (path / "package.json").write_text(json.dumps(package))
    (path / "package-lock.json").write_text(json.dumps(lock))
    (path / "bin" / "cml.js").write_text(PROGRAM.format(stand_in=json.dumps(stand_in)))
    repository = Repository.create(path, "iterative/cml")
    repository.git("config", "uploadpack.allowAnySHA1InWant", "true")
    return repository
