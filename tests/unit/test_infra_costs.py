"""The estimate in docs/setup-aws.md: sums that add up, of the services that the template makes."""

from __future__ import annotations

import re
from math import prod
from pathlib import Path

import pytest
import templates

DOCUMENT = (Path(__file__).parents[2] / "docs" / "setup-aws.md").read_text()
HOURS = 730
VCPU, GB = 0.03238, 0.00356  # Graviton
VCPU_X86, GB_X86 = 0.04048, 0.004445
ADDRESS = 0.005


def rows() -> list[tuple[str, list[float], float, float]]:
    """What, the factors of its quantity, its unit price, its dollars."""
    found = re.findall(r"^\| (.+?) \| ([\d.× ]+) \| ([\d.]+) \| ([\d.]+) \|$", DOCUMENT, re.M)
    return [
        (what, [float(f) for f in quantity.split("×")], float(price), float(dollars))
        for what, quantity, price, dollars in found
    ]


def knob(name: str) -> float:
    (dollars,) = re.findall(rf"^\| .*`{name}`.*\| ([−+][\d.]+) \|$", DOCUMENT, re.M)
    return float(dollars.replace("−", "-"))


def test_each_row_is_quantity_times_price_and_the_sum_is_their_sum() -> None:
    assert len(rows()) == 9
    for what, quantity, price, dollars in rows():
        assert dollars == pytest.approx(prod(quantity) * price, abs=0.0051), what
    (total,) = re.findall(r"\*\*sum\*\*.*\*\*([\d.]+)\*\*", DOCUMENT)
    assert float(total) == pytest.approx(sum(row[3] for row in rows()), abs=0.001)


def test_it_is_an_estimate_of_the_default() -> None:
    template = templates.load("service")
    defaults = {name: p.get("Default") for name, p in template["Parameters"].items()}
    size = template["Mappings"]["Sizes"][defaults["Size"]]
    by_name = {what: quantity for what, quantity, *_ in rows()}
    tasks = defaults["MinTasks"]
    assert defaults["Architecture"] == "ARM64"
    assert by_name["Fargate on Graviton, vCPU hours"] == [tasks, int(size["Cpu"]) / 1024, HOURS]
    assert by_name["Fargate on Graviton, GB hours"] == [tasks, int(size["Memory"]) / 1024, HOURS]
    alarms = [
        r
        for r in template["Resources"].values()
        if r["Type"] == "AWS::CloudWatch::Alarm" and r.get("Condition") != "Shifts"
    ]
    assert defaults["TrafficShifting"] == "false"
    metrics = sum(
        sum("MetricStat" in m for m in alarm["Properties"].get("Metrics", [])) or 1
        for alarm in alarms
    )
    policies = [r for r in template["Resources"].values() if r["Type"].endswith("ScalingPolicy")]
    # scaling to a target makes an alarm for more and one for less
    assert by_name["alarms, by metric (8 ours, 4 of scaling)"] == [metrics + 2 * len(policies)]


def test_the_knobs_turn_as_far_as_they_say() -> None:
    def task(vcpu: float, gb: float) -> float:
        return HOURS * (0.25 * vcpu + 0.5 * gb)

    near = {"abs": 0.0051}
    one = task(VCPU, GB)
    assert knob("MinTasks=1") == pytest.approx(-(one + HOURS * ADDRESS), **near)
    assert knob("Spot=true") == pytest.approx(-0.7 * one, **near)
    asleep = 1 - 55 / 168
    assert knob("SleepAt") == pytest.approx(-asleep * 2 * (one + HOURS * ADDRESS), **near)
    assert knob("Architecture=X86_64") == pytest.approx(2 * (task(VCPU_X86, GB_X86) - one), **near)
    assert knob("Size=medium") == pytest.approx(2 * one, **near)
    assert knob("PublicIp=DISABLED") == pytest.approx(-2 * HOURS * ADDRESS, **near)
