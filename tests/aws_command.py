"""A command of the AWS CLI, carried out by boto3: so a test can do what a message tells to do."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from typing import Any

CLIENTS = {"s3api": "s3"}
OPTIONS = {"notificationendpoint": "endpoint"}  # what the AWS CLI calls otherwise than AWS


def run(command: str, client: Callable[[str], Any]) -> Any:
    """Carry out `aws SERVICE OPERATION --OPTION VALUE ...`, exactly as it is written.

    Every option must be one of the operation's, and what is no text must be JSON, as the AWS CLI
    has it.
    """
    program, service, operation, *options = shlex.split(command, comments=True)
    assert program == "aws", command
    caller = client(CLIENTS.get(service, service))
    method = operation.replace("-", "_")
    shape = caller.meta.service_model.operation_model(
        caller.meta.method_to_api_mapping[method]
    ).input_shape
    members = {name.lower(): (name, member) for name, member in shape.members.items()}
    arguments = {}
    for option, value in zip(options[::2], options[1::2], strict=True):
        if option == "--query":  # of the CLI itself
            continue
        spelled = option.removeprefix("--").replace("-", "")
        name, member = members[OPTIONS.get(spelled, spelled)]
        if member.type_name == "string":
            arguments[name] = value
        elif member.type_name == "list" and not value.startswith("["):
            arguments[name] = [value]
        else:
            arguments[name] = json.loads(value)
    return getattr(caller, method)(**arguments)
