"""The alarms: that there are some, that they are quiet, and that somebody hears them."""

from __future__ import annotations

from typing import Any

from trilho.doctor.context import Context
from trilho.doctor.findings import Finding, Unknown, aws, bad, doubt, good
from trilho.doctor.service import deployments_mended
from trilho.storage.aws import explained

REPAIR = "trilho infra up service"


def deployment(c: Context) -> Finding:
    """Whether alarms end a deployment, and bring the old version back."""
    settings = c.service.get("deploymentConfiguration", {}).get("alarms", {})
    names = settings.get("alarmNames", [])
    if not names:
        return doubt("no alarm ends a deployment: only tasks that crash do", REPAIR)
    if not (settings.get("enable") and settings.get("rollback")):
        return bad(
            f"{', '.join(names)} do not end a deployment, or bring nothing back",
            deployments_mended(c),
        )
    if missing := sorted(set(names) - {alarm["AlarmName"] for alarm in _alarms(c)}):
        return bad(f"the service names alarms that do not exist: {', '.join(missing)}", REPAIR)
    return good(f"{', '.join(names)} end a deployment and bring the old version back")


def state(c: Context) -> Finding:
    """Whether one is going off, or cannot tell."""
    alarms = _some(c)
    decisive = set(_named(c))
    ringing = [a for a in alarms if a["StateValue"] == "ALARM"]
    if ringing:
        names = [a["AlarmName"] for a in ringing]
        what = f"going off: {'; '.join(_told(a) for a in ringing)}"
        history = aws("cloudwatch", "describe-alarms", alarm_names=names, state_value="ALARM")
        if decisive & set(names):
            return bad(f"{what}; a deployment would be undone at once", history)
        return doubt(what, history)
    blind = [a["AlarmName"] for a in alarms if a["StateValue"] == "INSUFFICIENT_DATA"]
    if decisive & set(blind):
        return doubt(
            f"{', '.join(sorted(decisive & set(blind)))} see no data: they would end no deployment",
            aws("cloudwatch", "describe-alarms", alarm_names=sorted(decisive & set(blind))),
        )
    return good(f"{len(alarms)} alarms, none going off")


def actions(c: Context) -> Finding:
    """Whether they tell anybody."""
    alarms = _some(c)
    if mute := [a["AlarmName"] for a in alarms if not a.get("ActionsEnabled", True)]:
        return bad(
            f"switched off: {', '.join(mute)}",
            aws("cloudwatch", "enable-alarm-actions", alarm_names=mute),
        )
    if idle := [a["AlarmName"] for a in alarms if not a.get("AlarmActions")]:
        return doubt(f"do nothing when they go off: {', '.join(idle)}", REPAIR)
    return good("each of them does something when it goes off")


def listeners(c: Context) -> Finding:
    """Whether a topic that they tell has subscribers who confirmed it."""
    topics = sorted({t for a in _some(c) for t in a.get("AlarmActions", []) if ":sns:" in t})
    if not topics:
        raise Unknown("no alarm tells an SNS topic")
    for topic in topics:
        with explained(f"list who hears {topic}"):
            found = c.client("sns").list_subscriptions_by_topic(TopicArn=topic)["Subscriptions"]
        if any(s["SubscriptionArn"].startswith("arn:") for s in found):
            return good(f"{topic.rpartition(':')[2]} has subscribers")
    return doubt(
        f"nobody has subscribed to {', '.join(t.rpartition(':')[2] for t in topics)}",
        aws(
            "sns",
            "subscribe",
            topic_arn=topics[0],
            protocol="email",
            notification_endpoint="you@example.com",
        ),
    )


def _named(c: Context) -> list[str]:
    """The alarms that end a deployment."""
    settings = c.service.get("deploymentConfiguration", {}).get("alarms", {})
    return list(settings.get("alarmNames", []))


def _alarms(c: Context) -> list[dict[str, Any]]:
    """The service's alarms: those that end a deployment, and those named like them."""

    def read() -> list[dict[str, Any]]:
        names = _named(c)
        # infra/service.yaml names them STACK-errors, STACK-latency, ...
        stacks = {name.rpartition("-")[0] for name in names}
        asked: dict[str, Any] = {"AlarmNames": names}
        if len(stacks) == 1 and (stack := stacks.pop()):
            asked = {"AlarmNamePrefix": f"{stack}-"}
        with explained("describe the alarms"):
            pages = c.client("cloudwatch").get_paginator("describe_alarms").paginate(**asked)
            return [alarm for page in pages for alarm in page["MetricAlarms"]]

    return c.once("alarms", read)


def _some(c: Context) -> list[dict[str, Any]]:
    if not _named(c):
        raise Unknown("the service names no alarms")
    if not (found := _alarms(c)):
        raise Unknown("none of the service's alarms exists")
    return found


def _told(alarm: dict[str, Any]) -> str:
    return f"{alarm['AlarmName']} ({alarm.get('AlarmDescription') or 'no description'})"
