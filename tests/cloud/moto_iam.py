"""A moto server that enforces policies as AWS does: `python moto_iam.py PORT`.

moto checks who signed a request and collects that identity's policies. What it cannot do is put
right here: conditions, resources of ECS, ECR and IAM, roles that are passed, bucket policies. Its
ECS services run what they are told at once.
"""

from __future__ import annotations

import json
import re
import sys
import threading
from typing import Any
from urllib.parse import parse_qs, urlsplit

from iam_policy import Request, allowed
from moto.ecs.models import EC2ContainerServiceBackend
from moto.ecs.responses import EC2ContainerServiceResponse
from moto.iam.access_control import IAMPolicy, IAMRequestBase, PermissionResult, S3IAMRequest
from moto.s3.exceptions import S3AccessDeniedError
from moto.s3.models import FakeBucket, s3_backends

# moto's names of what IAM calls otherwise
S3_ACTIONS = {"s3:HeadBucket": "s3:ListBucket"}


def requests_of(call: IAMRequestBase, resource: str) -> list[Request]:
    """Return what a call asks for."""
    action = S3_ACTIONS.get(call._action, call._action)
    service = action.partition(":")[0]
    if service == "s3":
        return of_s3(call, action, resource)
    body = json.loads(call._body or b"{}") if service in ("ecs", "ecr") else {}
    where = f"{call._region}:{call.account_id}"
    if service == "ecr" and "repositoryName" in body:
        return [Request(action, f"arn:aws:ecr:{where}:repository/{body['repositoryName']}")]
    if service == "ecs":
        return of_ecs(action, body, f"arn:aws:ecs:{where}")
    return [Request(action, "*")]


def of_s3(call: IAMRequestBase, action: str, resource: str) -> list[Request]:
    query = parse_qs(urlsplit(call._path).query, keep_blank_values=True)
    if action == "s3:DeleteObject" and "delete" in query:  # many objects in one call
        keys = re.findall(r"<Key>(.*?)</Key>", call._body.decode())
        return [Request(action, f"{resource}/{key}") for key in keys]
    # the loopback stands in for a connection with TLS
    context = {"aws:SecureTransport": "true"}
    for header, key in (("If-None-Match", "s3:if-none-match"), ("If-Match", "s3:if-match")):
        if header in call._headers:
            context[key] = call._headers[header]
    if action == "s3:PutObject":
        part = "uploads" in query or "partNumber" in query
        context["s3:ObjectCreationOperation"] = str(not part).lower()
    return [Request(action, resource, context)]


def of_ecs(action: str, body: dict[str, Any], ecs: str) -> list[Request]:
    cluster = body.get("cluster", "default").rsplit("/", 1)[-1]
    context = {"ecs:cluster": f"{ecs}:cluster/{cluster}"}
    operation = action.partition(":")[2]

    def service(name: str) -> str:
        return f"{ecs}:service/{cluster}/{name.rsplit('/', 1)[-1]}"

    if operation == "RegisterTaskDefinition":
        family = f"{ecs}:task-definition/{body['family']}:*"
        asked = [Request(action, family)]
        passed = {"iam:PassedToService": "ecs-tasks.amazonaws.com"}
        for key in ("taskRoleArn", "executionRoleArn"):
            if key in body:
                asked.append(Request("iam:PassRole", body[key], passed))
        if body.get("tags"):
            creates = {"ecs:CreateAction": operation}
            asked.append(Request("ecs:TagResource", family, creates))
        return asked
    if operation in ("UpdateService", "DeleteService", "CreateService"):
        if "taskDefinition" in body:
            name = body["taskDefinition"].rsplit("/", 1)[-1]
            context["ecs:task-definition"] = f"{ecs}:task-definition/{name}"
        return [Request(action, service(body.get("service") or body["serviceName"]), context)]
    if operation in ("DescribeServiceDeployments", "DescribeServiceRevisions"):
        arns = body.get("serviceDeploymentArns") or body["serviceRevisionArns"]
        return [Request(action, arn) for arn in arns]
    if operation == "ListServiceDeployments":
        return [Request(action, service(body["service"]), context)]
    if operation == "DescribeServices":
        return [Request(action, service(name), context) for name in body["services"]]
    if operation in ("DescribeTasks", "StopTask"):
        tasks = body.get("tasks") or [body.get("task", "")]
        names = [task.rsplit("/", 1)[-1] for task in tasks]
        return [Request(action, f"{ecs}:task/{cluster}/{name}", context) for name in names]
    if operation == "TagResource":
        return [Request(action, body["resourceArn"])]
    return [Request(action, "*", context)]


def bucket_policy(call: IAMRequestBase, resource: str) -> list[dict[str, Any]]:
    bucket = resource.removeprefix("arn:aws:s3:::").partition("/")[0]
    known = s3_backends[call.account_id]["aws"].buckets
    found = known[bucket].policy if bucket in known else None
    return [json.loads(found)] if found else []


def check(call: IAMRequestBase, resource: str) -> None:
    if call._action == "sts:GetCallerIdentity":  # nobody can be denied that
        return
    policies = [IAMPolicy(policy)._policy_json for policy in call._access_key.collect_policies()]
    for request in requests_of(call, resource):
        binding = bucket_policy(call, resource) if isinstance(call, S3IAMRequest) else []
        if not allowed(request, policies + binding):
            if isinstance(call, S3IAMRequest):
                raise S3AccessDeniedError()
            call._raise_access_denied()


def main() -> None:
    IAMRequestBase.check_action_permitted = check  # type: ignore[method-assign]
    FakeBucket.get_permission = lambda *_: PermissionResult.NEUTRAL  # type: ignore[method-assign]

    update = EC2ContainerServiceBackend.update_service

    def at_once(backend: EC2ContainerServiceBackend, properties: dict[str, Any]) -> Any:
        service = update(backend, properties)
        for deployment in service.deployments:
            deployment["taskDefinition"] = service.task_definition
        return service

    EC2ContainerServiceBackend.update_service = at_once  # type: ignore[method-assign]
    # moto keeps no record of deployments: these are asked for, allowed or not, and find none
    for operation, answer in (
        ("list_service_deployments", {"serviceDeployments": []}),
        ("describe_service_deployments", {"serviceDeployments": []}),
        ("describe_service_revisions", {"serviceRevisions": []}),
    ):
        text = json.dumps(answer)
        setattr(EC2ContainerServiceResponse, operation, lambda _, text=text: text)

    from moto.moto_server import werkzeug_app as moto
    from werkzeug.serving import run_simple

    application = moto.DomainDispatcherApplication(moto.create_backend_app)
    lock = threading.Lock()  # moto's conditional writes are not atomic, AWS's are

    def one_at_a_time(environ: Any, start_response: Any) -> list[bytes]:
        with lock:
            return list(application(environ, start_response))

    run_simple(
        "127.0.0.1",
        int(sys.argv[1]),
        one_at_a_time,
        threaded=True,
        request_handler=moto.MotoRequestHandler,
    )


if __name__ == "__main__":
    main()
