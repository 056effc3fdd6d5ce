"""`pipeline.yaml`: what is wrong is named with file, line, key and the nearest known name."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from ruamel.yaml import YAML

from trilho import config
from trilho.config import Overrides, reference
from trilho.errors import UsageError

ROOT = Path(__file__).parents[2]
MINIMAL = """\
name: credit
data:
  path: a.csv
  schema: s.yaml
  target: y
model:
  factory: package.module:build
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "pipeline.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def failure(folder: Path, text: str) -> UsageError:
    with pytest.raises(UsageError) as caught:
        config.load(write(folder, text))
    return caught.value


def test_minimal_file_has_every_default(tmp_path: Path) -> None:
    pipeline = config.load(write(tmp_path, MINIMAL))
    assert pipeline.data.split.method == "random"
    assert pipeline.evaluation.resamples == 2000
    assert pipeline.model.threshold == 0.5


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (
            "target: y",
            "target: y\n  encodng: x",
            ["pipeline.yaml:6: data.encodng", "mean 'encoding'"],
        ),
        ("  target: y\n", "", ["pipeline.yaml:2: data.target: is missing"]),
        ("name: credit", "name: My Model", ["pipeline.yaml:1: name:"]),
        (
            "factory: package.module:build",
            "factory: package",
            ["pipeline.yaml:6: model:", "package.module:function"],
        ),
        (
            "factory: package.module:build",
            "factory: a:b\n  estimator: c.d",
            ["exactly one of 'factory' and 'estimator'"],
        ),
        (
            "target: y",
            "target: y\n  split: {method: time}",
            ["pipeline.yaml:6: data.split:", "needs a 'column'"],
        ),
        (
            "factory: package.module:build",
            "factory: a:b\n  search: {space: {x: {low: 3, high: 1}}}",
            ["model.search.space.x: 'low' (3) must be below 'high' (1)"],
        ),
        (
            "model:",
            "gates:\n  limits: {roc_auc: {mn: 1}}\nmodel:",
            ["pipeline.yaml:7: gates.limits.roc_auc.mn", "did you mean 'min'"],
        ),
        (
            "model:",
            "evaluation:\n  slices: [A, {column: B, bin: [1]}]\nmodel:",
            ["pipeline.yaml:7: evaluation.slices.1.bin", "did you mean 'bins'"],
        ),
        ("name: credit", "name: credit\nname: other", ["not valid YAML", "duplicate key"]),
        ("model:", "model: [", ["not valid YAML"]),
        (
            "name: credit",
            "name: credit\nstrategy: x",
            ["pipeline.yaml:2: strategy: is not a known"],
        ),
        (
            "model:",
            "evaluation: {interval: 0.9}\nmodel:",
            ["evaluation.interval: is not a known key"],
        ),
    ],
)
def test_mistake_is_named_with_line_and_key(
    tmp_path: Path, old: str, new: str, expected: list[str]
) -> None:
    assert old in MINIMAL
    error = failure(tmp_path, MINIMAL.replace(old, new))
    for text in expected:
        assert text in str(error)
    assert len(str(error).splitlines()) == 1
    assert error.exit_code == 2
    assert error.places


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    error = failure(tmp_path, MINIMAL.replace("path", "pth").replace("factory", "facotry"))
    assert "did you mean 'path'" in str(error)
    assert "did you mean 'factory'" in str(error)


def test_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        config.load(tmp_path / "pipeline.yaml")
    assert "trilho init" in str(caught.value.hint)


@pytest.mark.parametrize("text", ["", "just text", "- a\n- b\n"])
def test_file_without_keys_is_refused(tmp_path: Path, text: str) -> None:
    assert "must hold keys" in str(failure(tmp_path, text))


def test_environment_fills_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, MINIMAL + "registry: ${BUCKET}/${PREFIX:-models}\n")
    monkeypatch.setenv("BUCKET", "s3://b")
    assert config.load(path).registry == "s3://b/models"
    monkeypatch.setenv("PREFIX", "p")
    assert config.load(path).registry == "s3://b/p"
    monkeypatch.delenv("BUCKET")
    with pytest.raises(UsageError, match=r"pipeline.yaml:8: the environment variable BUCKET"):
        config.load(path)


def test_values_arrive_as_yaml_has_them(tmp_path: Path) -> None:
    text = MINIMAL + "  params: {class_weight: {0: 1, 1: 5}}\n"
    assert config.load(write(tmp_path, text)).model.params == {"class_weight": {0: 1, 1: 5}}
    split = "  split: {method: time, column: day, cutoff: 2015-01-01}\n"
    pipeline = config.load(write(tmp_path, MINIMAL.replace("model:\n", split + "model:\n")))
    assert pipeline.data.split.cutoff == "2015-01-01"


def test_overrides_replace_values_and_are_checked(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL)
    given = Overrides(settings={"model.params.depth": "3", "data.split.holdout": "0.5"})
    pipeline = config.load(path, given)
    assert pipeline.model.params == {"depth": 3}
    assert pipeline.data.split.holdout == 0.5
    with pytest.raises(UsageError, match="did you mean 'holdout'"):
        config.load(path, Overrides(settings={"data.split.holdot": "0.5"}))


def test_values_given_beside_the_file_arrive_as_they_were_meant(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL + "  params: {depth: 2, rate: 0.1}\n")
    given = Overrides(
        settings={
            "data.split": "{method: time, column: day}",
            "data.split.cutoff": "2015-01-01",  # YAML makes a date of it
            "model.params.weights": "{0: 1, 1: 5}",
        },
        data="s3://bucket/new data.csv",
        params={"depth": 3, "a.b": [1, None]},
    )
    pipeline = config.load(path, given)
    assert pipeline.data.split.cutoff == "2015-01-01"
    assert pipeline.data.path == "s3://bucket/new data.csv"
    assert pipeline.model.params == {
        "depth": 3,
        "rate": 0.1,
        "weights": {0: 1, 1: 5},
        "a.b": [1, None],
    }
    with pytest.raises(UsageError, match=r"'model\.params\.weights': 'params' is not a"):
        config.load(write(tmp_path, MINIMAL + "  params: 3\n"), given)
    with pytest.raises(UsageError, match=r"--set name: '\[' is not a YAML value"):
        config.load(path, Overrides(settings={"name": "["}))


@pytest.mark.parametrize(
    ("section", "asked", "searches"),
    [
        ("", None, True),
        ("", False, False),
        ("enabled: false, ", None, False),
        ("enabled: false, ", True, True),
        ("enabled: true, ", True, True),
    ],
)
def test_a_search_runs_when_it_is_enabled_or_asked_for(
    section: str, asked: bool | None, searches: bool, tmp_path: Path
) -> None:
    path = write(tmp_path, MINIMAL + f"  search: {{{section}space: {{depth: [1, 2]}}}}\n")
    found = config.load(path, Overrides(search=asked)).model
    assert (found.search is not None) == searches
    # how it was switched decides nothing: the fingerprint is made of this text
    plain = write(tmp_path, MINIMAL + "  search: {space: {depth: [1, 2]}}\n" * searches)
    assert found.model_dump_json() == config.load(plain).model.model_dump_json()


def test_a_search_that_is_not_described_cannot_be_switched_on(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL)
    assert config.load(path, Overrides(search=False)).model.search is None
    with pytest.raises(UsageError, match=r"no 'model\.search' section") as caught:
        config.load(path, Overrides(search=True))
    assert "enabled: false" in str(caught.value.hint)


def test_reference_and_schema_are_up_to_date() -> None:
    assert (ROOT / "docs/pipeline.md").read_text() == reference.reference()
    assert (ROOT / "docs/pipeline.schema.json").read_text() == reference.json_schema()


def test_every_key_is_documented() -> None:
    schema = json.loads(reference.json_schema())
    for name, section in [("Pipeline", schema), *schema["$defs"].items()]:
        for key, field in section["properties"].items():
            documented = field.get("description") or "$ref" in str(field)
            assert documented, f"{name}.{key} has no description"


def test_shipped_pipeline_is_valid_for_editors_and_for_trilho() -> None:
    path = ROOT / "pipeline.yaml"
    first, *_ = path.read_text().splitlines()
    assert first == "# yaml-language-server: $schema=docs/pipeline.schema.json"
    jsonschema.validate(YAML(typ="safe").load(path), json.loads(reference.json_schema()))
    config.load(path)
