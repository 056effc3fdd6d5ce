"""A task definition, and what a deployment changes in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trilho.errors import UsageError

# The only values of a task definition that a deployment changes, besides the image.
MODEL_URI = "TRILHO_MODEL_URI"
MODEL_DIGEST = "TRILHO_MODEL_DIGEST"
MODEL_VERSION = "TRILHO_MODEL_VERSION"


@dataclass(frozen=True)
class Model:
    """The model that a task serves."""

    uri: str  # root of the registry
    digest: str
    version: int


@dataclass(frozen=True)
class Revision:
    """A task definition, as it can be registered again."""

    arn: str
    definition: dict[str, Any]
    container: str  # the one that serves

    @property
    def name(self) -> str:
        """`family:revision`."""
        return self.arn.rsplit("/", 1)[-1]

    @property
    def family(self) -> str:
        return str(self.definition["family"])

    @property
    def image(self) -> str:
        return str(self._serving["image"])

    @property
    def digest(self) -> str | None:
        return self.environment.get(MODEL_DIGEST)

    @property
    def environment(self) -> dict[str, str]:
        """Variables of the serving container."""
        return {e["name"]: e.get("value", "") for e in self._serving.get("environment", [])}

    @property
    def _serving(self) -> dict[str, Any]:
        return next(
            c for c in self.definition["containerDefinitions"] if c["name"] == self.container
        )

    def serves(self, model: Model, image: str | None) -> bool:
        """Tell whether this revision is what a deployment of `model` would register."""
        environment = self.environment
        return (
            environment.get(MODEL_DIGEST) == model.digest
            and environment.get(MODEL_URI) == model.uri
            and image in (None, self.image)
        )

    def revised(self, model: Model, image: str | None) -> dict[str, Any]:
        """Return the definition with the model's values, and the image if one is given."""
        values = {
            MODEL_URI: model.uri,
            MODEL_DIGEST: model.digest,
            MODEL_VERSION: str(model.version),
        }
        serving = dict(self._serving)
        for secret in serving.get("secrets", []):
            if secret["name"] in values:
                raise UsageError(
                    f"Container '{self.container}' of {self.name} takes {secret['name']} from a "
                    "secret; a deployment must be able to set it.",
                    hint="Remove it from 'secrets' of the task definition.",
                )
        serving["environment"] = [
            {"name": name, "value": values.pop(name, value)}
            for name, value in self.environment.items()
        ] + [{"name": name, "value": value} for name, value in values.items()]
        if image is not None:
            serving["image"] = image
        containers = [
            serving if c["name"] == self.container else c
            for c in self.definition["containerDefinitions"]
        ]
        return self.definition | {"containerDefinitions": containers}
