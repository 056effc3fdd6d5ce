"""ECS's own deployment strategies: what UpdateService is told, and what a service needs for it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from trilho.config import Strategy

ROLLING = "ROLLING"
NAMES = {
    "rolling": ROLLING,
    "canary": "CANARY",
    "linear": "LINEAR",
    "blue-green": "BLUE_GREEN",
}
# ECS's own defaults of percent and minutes, written out so that nobody has to know them
STEPS = {"canary": (5.0, 10), "linear": (10.0, 6)}
BAKE_MINUTES = 5
# Settings that one strategy only has: ECS refuses them beside another one.
OF_ONE = {"canaryConfiguration": "CANARY", "linearConfiguration": "LINEAR"}
OF_SHIFTING = ("bakeTimeInMinutes", "lifecycleHooks")
OF_ROLLING = ("earlySuccessCriteria",)
# What shifts the traffic, in each of the service's load balancers.
NEEDED = ("alternateTargetGroupArn", "productionListenerRule", "roleArn")


def configuration(
    wanted: Strategy | None, own: Mapping[str, Any], *, at_once: bool = False
) -> dict[str, Any]:
    """Return the `deploymentConfiguration` of a deployment.

    Parameters
    ----------
    wanted
        What the pipeline says; the service's own settings stay where it says nothing.
    own
        The service's own settings.
    at_once
        To go back: traffic that is shifted at all is shifted in one step, without waiting after.
    """
    settings = dict(own)
    if wanted is not None:
        name = NAMES[wanted.method]
        others = OF_SHIFTING if name == ROLLING else OF_ROLLING
        settings = {
            key: value for key, value in settings.items() if key not in others and key not in OF_ONE
        } | {"strategy": name}
        if at_once and name != ROLLING:
            settings |= {"strategy": NAMES["blue-green"], "bakeTimeInMinutes": 0}
        elif name != ROLLING:
            settings |= _shifting(wanted)
        if wanted.alarms:
            settings["alarms"] = {"alarmNames": wanted.alarms, "enable": True, "rollback": True}
    breaker = settings.get("deploymentCircuitBreaker", {}) | {"enable": True, "rollback": True}
    return settings | {"deploymentCircuitBreaker": breaker}


def _shifting(wanted: Strategy) -> dict[str, Any]:
    bake = BAKE_MINUTES if wanted.bake_minutes is None else wanted.bake_minutes
    settings: dict[str, Any] = {"bakeTimeInMinutes": bake}
    if wanted.method in STEPS:
        percent, minutes = STEPS[wanted.method]
        percent = percent if wanted.percent is None else wanted.percent
        minutes = minutes if wanted.step_minutes is None else wanted.step_minutes
        if wanted.method == "canary":
            settings["canaryConfiguration"] = {
                "canaryPercent": percent,
                "canaryBakeTimeInMinutes": minutes,
            }
        else:
            settings["linearConfiguration"] = {
                "stepPercent": percent,
                "stepBakeTimeInMinutes": minutes,
            }
    return settings


def shifts(settings: Mapping[str, Any]) -> bool:
    """Tell whether these settings of a service run old and new tasks side by side."""
    return bool(settings.get("strategy", ROLLING) != ROLLING)


def waiting_minutes(settings: Mapping[str, Any]) -> float:
    """Return how long a deployment by these settings waits on purpose."""
    if not shifts(settings):
        return 0
    minutes = float(settings.get("bakeTimeInMinutes", 0))
    if canary := settings.get("canaryConfiguration"):
        minutes += canary.get("canaryBakeTimeInMinutes", STEPS["canary"][1])
    if linear := settings.get("linearConfiguration"):
        percent, step = STEPS["linear"]
        # none after the last step, with which all of the traffic is there
        steps = math.ceil(100 / linear.get("stepPercent", percent)) - 1
        minutes += steps * linear.get("stepBakeTimeInMinutes", step)
    return minutes


def in_words(settings: Mapping[str, Any]) -> str:
    """Return what a deployment by these settings will do, as one line."""
    bake = settings.get("bakeTimeInMinutes", 0)
    stays = f"; the old tasks stay for {bake} more minutes" if bake else ""
    if canary := settings.get("canaryConfiguration"):
        percent, minutes = canary.get("canaryPercent"), canary.get("canaryBakeTimeInMinutes")
        return f"canary: {percent:g} % of the traffic for {minutes} minutes, then all{stays}"
    if linear := settings.get("linearConfiguration"):
        percent, minutes = linear.get("stepPercent"), linear.get("stepBakeTimeInMinutes")
        return f"linear: {percent:g} % more of the traffic every {minutes} minutes{stays}"
    return f"blue/green: all of the traffic once every new task is healthy{stays}"


def missing(service: Mapping[str, Any]) -> str | None:
    """Return what a service lacks for its traffic to be shifted, as the rest of a sentence."""
    balancers = service.get("loadBalancers", [])
    if not balancers:
        return "it has no load balancer whose traffic could be shifted"
    for balancer in balancers:
        advanced = balancer.get("advancedConfiguration") or {}
        if lacking := [name for name in NEEDED if not advanced.get(name)]:
            return f"its load balancer's advancedConfiguration has no {', '.join(lacking)}"
    return None
