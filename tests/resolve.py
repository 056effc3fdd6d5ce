"""Works out the functions of a template by hand: which policies do these parameters give?"""

from __future__ import annotations

import re
from ipaddress import ip_network
from typing import Any

ACCOUNT, REGION = "123456789012", "us-east-1"
PSEUDO = {
    "AWS::AccountId": ACCOUNT,
    "AWS::Region": REGION,
    "AWS::Partition": "aws",
    "AWS::StackName": "a-stack",
}
NOTHING = object()  # what AWS::NoValue leaves


class Resolver:
    """One template with one set of parameters, account and region."""

    def __init__(
        self,
        template: dict[str, Any],
        parameters: dict[str, str],
        imports: dict[str, str] | None = None,
        account: str = ACCOUNT,
    ) -> None:
        defaults = {n: p.get("Default") for n, p in template["Parameters"].items()}
        self.template = template
        self.values = PSEUDO | {"AWS::AccountId": account} | defaults | parameters
        self.imports = imports or {}

    def resource(self, name: str) -> Any:
        """Return the properties of a resource, resolved; None when its condition does not hold."""
        resource = self.template["Resources"][name]
        if "Condition" in resource and not self._holds(resource["Condition"]):
            return None
        return self.value(resource.get("Properties", {}))

    def output(self, name: str) -> Any:
        return self.value(self.template["Outputs"][name]["Value"])

    def value(self, node: Any) -> Any:
        if isinstance(node, list):
            return [v for v in map(self.value, node) if v is not NOTHING]
        if not isinstance(node, dict):
            return node
        if len(node) == 1:
            ((function, argument),) = node.items()
            if function == "Ref":
                return self._ref(argument)
            if function.startswith("Fn::"):
                return getattr(self, "_" + function.removeprefix("Fn::").lower())(argument)
        found = {k: self.value(v) for k, v in node.items()}
        return {k: v for k, v in found.items() if v is not NOTHING}

    def _ref(self, name: str) -> Any:
        if name == "AWS::NoValue":
            return NOTHING
        return self.values[name] if name in self.values else self._named(name)

    def _sub(self, argument: Any) -> str:
        text, more = (argument, {}) if isinstance(argument, str) else argument
        known = {k: self.value(v) for k, v in more.items()}

        def put(match: re.Match[str]) -> str:
            name = match[1]
            if name in known:
                return str(known[name])
            return str(self._getatt(name.split(".")) if "." in name else self._ref(name))

        return re.sub(r"\$\{([^}]+)\}", put, text)

    def _if(self, argument: list[Any]) -> Any:
        condition, yes, no = argument
        return self.value(yes if self._holds(condition) else no)

    def _importvalue(self, argument: Any) -> Any:
        return self.imports[self.value(argument)]

    def _getatt(self, path: list[str]) -> str:
        properties = self.resource(path[0])
        account = self.values["AWS::AccountId"]
        where = f"{self.values['AWS::Region']}:{account}"
        if path[1] == "Arn" and "RepositoryName" in properties:
            return f"arn:aws:ecr:{where}:repository/{properties['RepositoryName']}"
        if path[1] == "Arn" and "RoleName" in properties:
            return f"arn:aws:iam::{account}:role/{properties['RoleName']}"
        if path[1] == "RepositoryUri":
            host = f"{account}.dkr.ecr.{self.values['AWS::Region']}.amazonaws.com"
            return f"{host}/{properties['RepositoryName']}"
        return ".".join(path)  # known to AWS alone

    def _named(self, name: str) -> str:
        properties = self.resource(name)
        names = ("BucketName", "RoleName", "UserName", "RepositoryName", "LogGroupName")
        return str(next((properties[n] for n in names if n in properties), name))

    def _findinmap(self, argument: list[Any]) -> Any:
        name, *keys = map(self.value, argument)
        found = self.template["Mappings"][name]
        for key in keys:
            found = found[key]
        return found

    def _select(self, argument: list[Any]) -> Any:
        index, values = argument
        return self.value(values)[int(index)]

    def _split(self, argument: list[Any]) -> list[str]:
        separator, text = argument
        return str(self.value(text)).split(separator)

    def _getazs(self, _: Any) -> list[str]:
        return [f"{self.values['AWS::Region']}{zone}" for zone in "abc"]

    def _cidr(self, argument: list[Any]) -> list[str]:
        block, count, bits = map(self.value, argument)
        subnets = ip_network(block).subnets(new_prefix=32 - int(bits))
        return [str(subnet) for subnet, _ in zip(subnets, range(int(count)), strict=False)]

    def _holds(self, condition: Any) -> bool:
        if isinstance(condition, str):
            return self._holds(self.template["Conditions"][condition])
        ((function, argument),) = condition.items()
        if function == "Condition":
            return self._holds(argument)
        if function == "Fn::Equals":
            left, right = map(self.value, argument)
            return str(left) == str(right)
        if function == "Fn::Not":
            return not self._holds(argument[0])
        assert function == "Fn::And", function
        return all(map(self._holds, argument))
