"""The registry: bundles, versions, aliases and their history on an object store.

```
blobs/sha256/<hex>          a bundle's files, by content                    written once
manifests/<hex>.json        what a bundle is; its files are there before it written once
candidates/<hex>.json       by fingerprint: the bundle trained, its verdict replaced whole
versions/<n>.json           1, 2, 3 ...                                     written once
aliases/<name>.json         which version is champion                       compare-and-swap
history/<time>-<hash>.json  who moved what, when and why                    written once
quarantine/<hex>.json       bundles that may not be deployed any more       written once
runs/<id>.json              training runs                                   written once
```

Every action writes its pointer last, and what it wrote before is either complete or unreachable:
killed at any line, it is finished by calling it again.
"""

from trilho.registry.core import Registry, open_registry
from trilho.registry.foregone import Foregone, foregone
from trilho.registry.records import (
    CHAMPION,
    MERGED,
    Alias,
    Candidate,
    Event,
    Quarantined,
    QuarantinedError,
    RunRecord,
    Source,
    Version,
    now,
)
from trilho.registry.views import Change, Described, Diff, changes, describe, diff, resolve

__all__ = [
    "CHAMPION",
    "MERGED",
    "Alias",
    "Candidate",
    "Change",
    "Described",
    "Diff",
    "Event",
    "Foregone",
    "Quarantined",
    "QuarantinedError",
    "Registry",
    "RunRecord",
    "Source",
    "Version",
    "changes",
    "describe",
    "diff",
    "foregone",
    "now",
    "open_registry",
    "resolve",
]
