"""The templates of infra/ for clouds that are not AWS: without what those refuse."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from cfnlint.decode import cfn_yaml

INFRA = Path(__file__).parents[1] / "infra"
KINDS = ("bootstrap", "service")

# What the embedded AWS does not know. All else of both templates is created there.
MINISTACK_REFUSES = {
    "AWS::ApplicationAutoScaling::ScalableTarget",
    "AWS::ApplicationAutoScaling::ScalingPolicy",
    "AWS::EC2::SecurityGroupIngress",
    "AWS::ECS::ClusterCapacityProviderAssociations",
    "AWS::IAM::OIDCProvider",
}


def load(kind: str) -> dict[str, Any]:
    """Return a template as CloudFormation reads it, `Fn::Sub` and all."""
    found: dict[str, Any] = json.loads(_read(kind))
    return found


@functools.cache  # it takes a third of a second
def _read(kind: str) -> str:
    return json.dumps(cfn_yaml.load(str(INFRA / f"{kind}.yaml")))


def without(template: dict[str, Any], types: set[str]) -> dict[str, Any]:
    """Return the template without its resources of these types, and without waiting for them."""
    gone = {name for name, r in template["Resources"].items() if r["Type"] in types}
    resources = {name: r for name, r in template["Resources"].items() if name not in gone}
    for resource in resources.values():
        waits = resource.get("DependsOn", [])
        if isinstance(waits, list):
            resource["DependsOn"] = [name for name in waits if name not in gone]
    return template | {"Resources": resources}


def for_ministack(kind: str) -> dict[str, Any]:
    """Return a template as the embedded AWS takes it; all else in it is as for AWS."""
    template = without(load(kind), MINISTACK_REFUSES)
    if kind == "service":
        # it knows no metric math: an alarm of the same name on one metric
        alarm = template["Resources"]["ErrorsAlarm"]["Properties"]
        plain = next(m for m in alarm.pop("Metrics") if m["Id"] == "target")["MetricStat"]
        alarm |= plain["Metric"] | {"Statistic": plain["Stat"], "Period": plain["Period"]}
        # it keeps these as they are written here, and ECS then would not know them
        container = template["Resources"]["Task"]["Properties"]["ContainerDefinitions"][0]
        for name in ("HealthCheck", "LinuxParameters"):
            container[name] = _camel(container[name])
    return template


def _camel(value: Any) -> Any:
    """The same with names as ECS's own API writes them."""
    if isinstance(value, list):
        return [_camel(v) for v in value]
    if isinstance(value, dict):
        return {k[0].lower() + k[1:]: _camel(v) for k, v in value.items()}
    return value


def write(folder: Path, kind: str, template: dict[str, Any]) -> None:
    """Write a template where `trilho infra --folder` finds it; JSON is YAML too."""
    folder.mkdir(exist_ok=True)
    (folder / f"{kind}.yaml").write_text(json.dumps(template, indent=1))
