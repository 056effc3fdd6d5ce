"""Health checks for MiniStack's ECS, which knows none: read by its process when it starts.

To MiniStack a task is healthy once its container ran for a second. On a busy machine the service
has not come to its golden rows by then. Here a task is healthy once `/ping` answers 200, as ECS has
it. Copied as `sitecustomize.py` to where only that process finds it.
"""

import sys

if sys.orig_argv[1:3] == ["-m", "ministack"]:
    import threading
    import time
    import urllib.request
    from typing import Any

    from ministack.services import ecs

    complete = ecs._schedule_service_deployment_completion
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def healthy(task: dict[str, Any]) -> bool:
        try:
            with opener.open(f"http://{ecs._task_ip(task)}:8080/ping", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def complete_when_healthy(
        cluster: str, service: str, account: str, region: str, healthy_task: Any = None
    ) -> None:
        """Hold MiniStack's clock back until the task answers; for ever if it ends before."""

        def wait() -> None:
            while healthy_task["lastStatus"] == "RUNNING":
                if healthy(healthy_task):
                    with ecs.request_scope(account, region):
                        complete(cluster, service, account, region, healthy_task=healthy_task)
                    return
                time.sleep(0.1)

        if healthy_task is None:
            complete(cluster, service, account, region)
        else:
            threading.Thread(target=wait, daemon=True).start()

    ecs._schedule_service_deployment_completion = complete_when_healthy
