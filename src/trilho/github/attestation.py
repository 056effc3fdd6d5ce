"""Whether a workflow of ours made a bundle, as GitHub's attestations say.

`actions/attest` signs, by the run's own identity, that it saw a digest; `gh attestation verify`
checks the signature, and that the signer is the workflow that is asked for. A bundle's digest is
that of its manifest, so the manifest is what is attested and verified.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from trilho.bundle import MANIFEST, sha256_bytes
from trilho.errors import IntegrityError, UsageError

# Which of Trilho's workflows store bundles.
SIGNERS = ("model-ci.yml", "model-cd.yml")
TIMEOUT = 120.0  # seconds for one call
NEEDS_SIGN_IN = 4  # the exit code of gh
PASSED_ON = {
    *("PATH", "HOME", "TMPDIR", "SSL_CERT_FILE", "GH_HOST"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
}


def verify(manifest: bytes, digest: str) -> str:
    """Return the workflow that attested a bundle, by its manifest.

    Parameters
    ----------
    manifest, digest
        The bundle's manifest, whose sha256 is the digest.

    Raises
    ------
    IntegrityError
        No workflow of ours attested it, or it is another manifest.
    UsageError
        It cannot be asked: no `gh`, no token, or no repository.
    """
    if sha256_bytes(manifest) != digest:
        raise IntegrityError(f"The manifest of bundle {digest} was changed: its sha256 differs.")
    program = shutil.which("gh")
    if program is None:
        raise UsageError(
            "An attestation is required, and `gh`, which verifies it, is not installed.",
            hint="GitHub's runners have it; elsewhere see https://cli.github.com.",
        )
    repository = os.environ.get("GITHUB_REPOSITORY", "")
    if not repository:
        raise UsageError(
            "An attestation is required, and it is not clear of which repository.",
            hint="On GitHub Actions it is; elsewhere set GITHUB_REPOSITORY to OWNER/NAME.",
        )
    # a called workflow signs by the repository that it stands in
    home = os.environ.get("TRILHO_SIGNER") or repository
    with tempfile.TemporaryDirectory(prefix="trilho-attestation-") as folder:
        file = Path(folder) / MANIFEST
        file.write_bytes(manifest)
        said = ""
        for workflow in SIGNERS:
            signer = f"{home}/.github/workflows/{workflow}"
            found, said = _ask(program, file, repository, signer)
            if any(digest in subjects(one) for one in found):
                return signer
    raise IntegrityError(
        f"No workflow of {home} attested the bundle {digest}"
        + (f" (gh: {said})" if said else "")
        + ".",
        hint="Nothing was loaded or deployed. Bundles carry an attestation when model-ci.yml or "
        "model-cd.yml stored them with `attest: true`; docs/security.md says more.",
    )


def _ask(program: str, file: Path, repository: str, signer: str) -> tuple[list[Any], str]:
    """What gh verified, and its last words where it verified nothing."""
    command = [program, "attestation", "verify", str(file), "--repo", repository]
    command += ["--signer-workflow", signer, "--format", "json"]
    token = os.environ.get("GH_TOKEN") or os.environ.get("GITHUB_TOKEN") or ""
    kept = {name: value for name, value in os.environ.items() if name in PASSED_ON}
    try:
        done = subprocess.run(  # noqa: S603
            command,
            env=kept | ({"GH_TOKEN": token} if token else {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsageError(f"`gh attestation verify` did not run: {error}.") from None
    words = " ".join(done.stderr.split())[-300:]
    if token:
        words = words.replace(token, "***")
    if done.returncode == NEEDS_SIGN_IN:
        raise UsageError(
            f"An attestation is required, and gh may not ask for it: {words}",
            hint="Give the step `GITHUB_TOKEN`, and the job the permission `attestations: read`.",
        )
    if done.returncode != 0:
        return [], words
    try:
        # versions of gh before 2.67 end with 0 where there is nothing to verify
        found = json.loads(done.stdout or "[]")
    except ValueError:
        return [], "its answer is not JSON"
    return (found if isinstance(found, list) else []), words


def subjects(verified: Any) -> set[str]:
    """Return the digests that a verified attestation speaks of."""
    try:
        listed = verified["verificationResult"]["statement"]["subject"]
        return {f"sha256:{subject['digest']['sha256']}" for subject in listed}
    except (KeyError, TypeError):
        return set()
