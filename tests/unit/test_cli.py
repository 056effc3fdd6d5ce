"""The command line: help, messages, exit codes, and the rail over a folder of one's own."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from step import outputs
from typer.testing import CliRunner

from trilho import pipeline
from trilho.cli import app, console, main
from trilho.config import Overrides, load
from trilho.evaluation.results import Comparison
from trilho.registry import Alias, Source, open_registry

ROOT = Path(__file__).parents[2]
FORMS = {"report": "md", "html": "html"}
TRILHO = Path(sys.executable).parent / "trilho"
VERBS = [
    "init",
    "validate",
    "train",
    "evaluate",
    "gate",
    "report",
    "retrain",
    "publish",
    "models",
    "runs",
    "deploy",
    "smoke",
    "rollback",
    "serve",
    "score",
    "demo",
]


def trilho(
    *arguments: str, cwd: Path, expect: int = 0, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `trilho` in this process: to import everything anew takes longer than most verbs do."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(cwd)
        patch.setattr(sys, "argv", ["trilho", *arguments])
        for name in [n for n in os.environ if n.startswith(("TRILHO_", "GITHUB_"))]:
            patch.delenv(name)
        for name, value in (env or {}).items():
            patch.setenv(name, value)
        with redirect_stdout(out), redirect_stderr(err):
            try:
                code = main()
            except SystemExit as end:
                code = end.code
    return checked(arguments, code or 0, out.getvalue(), err.getvalue(), expect)


def script(
    *arguments: str, cwd: Path, expect: int = 0, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `trilho` as a user does."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("TRILHO_", "GITHUB_"))}
    done = subprocess.run(
        [TRILHO, *arguments],
        cwd=cwd,
        env=clean | {"OMP_NUM_THREADS": "1"} | (env or {}),
        capture_output=True,
        text=True,
        timeout=240,
        stdin=subprocess.DEVNULL,
    )
    return checked(arguments, done.returncode, done.stdout, done.stderr, expect)


def checked(
    arguments: tuple[str, ...], code: Any, out: str, err: str, expect: int
) -> subprocess.CompletedProcess[str]:
    assert code == expect, f"exit {code}\n{out}\n{err}"
    assert "Traceback" not in err
    return subprocess.CompletedProcess(["trilho", *arguments], code, out, err)


def odd_frame(rows: int = 600) -> pd.DataFrame:
    """Text, boolean, date, constant, mostly missing and id-like columns, with odd names."""
    rng = np.random.default_rng(7)
    amount = rng.lognormal(3, 1, rows).round(2)
    city = rng.choice(["São Paulo", "Lisboa", "Porto, PT", 'a "quoted" one'], rows)
    signal = (amount > 20).astype(float) + (city == "Lisboa") + rng.normal(0, 0.7, rows)
    frame = pd.DataFrame(
        {
            "client id": [f"C{i:06d}" for i in range(rows)],
            "amount: €": amount,
            "city": city,
            "member": rng.choice(["yes", "no"], rows),
            "active": rng.random(rows) < 0.5,
            "since": pd.to_datetime("2020-01-01")
            + pd.to_timedelta(rng.integers(0, 900, rows), "D"),
            "constant": 1,
            "rare": np.where(rng.random(rows) < 0.03, 1.5, np.nan),
            "score": np.where(rng.random(rows) < 0.2, np.nan, rng.normal(size=rows)),
            "y": np.where(signal > 1.0, "bad", "good"),
        }
    )
    frame["since"] = frame["since"].dt.strftime("%Y-%m-%d")
    return frame


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a space in its name, where init, validate and train have been run."""
    folder = tmp_path_factory.mktemp("my project")
    odd_frame().to_csv(folder / "mydata.csv", index=False)
    script("init", "mydata.csv", "--target", "y", cwd=folder)
    script("validate", cwd=folder)
    script("train", cwd=folder)
    return folder


def test_help_lists_every_verb_and_the_exit_codes(tmp_path: Path) -> None:
    out = script("--help", cwd=tmp_path).stdout
    for verb in VERBS:
        assert re.search(rf"│ {verb} ", out), verb
    assert "6 deployment failed" in out


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_explains_itself_and_its_options(verb: str) -> None:
    out = CliRunner().invoke(app, [verb, "--help"], prog_name="trilho").stdout
    assert f"Usage: trilho {verb}" in out
    for option in re.findall(r"│ (?:\*\s+)?(--[a-z-]+)", out):
        line = next(li for li in out.splitlines() if option in li)
        assert len(line.replace("│", "").split()) >= 3, f"{verb} {option} is not explained"


def test_help_needs_no_heavy_library(tmp_path: Path) -> None:
    heavy = {"pandas", "sklearn", "numpy", "scipy", "boto3", "matplotlib", "pandera", "pydantic"}
    code = (
        "import sys\nsys.argv = ['trilho', '--help']\nfrom trilho.cli import app\n"
        "try:\n    app()\nexcept SystemExit:\n    pass\n"
        f"print(sorted({heavy!r} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.stderr.strip() == "[]"


def test_init_then_validate_then_train_on_odd_columns(place: Path) -> None:
    record = json.loads((place / ".trilho/run/run.json").read_bytes())
    assert record["metrics"]["roc_auc"] > 0.7
    first = (place / "pipeline.yaml").read_text().splitlines()[0]
    assert first == "# yaml-language-server: $schema=pipeline.schema.json"
    assert (place / "pipeline.schema.json").exists()


def test_gate_report_publish_and_look_up(place: Path) -> None:
    gate = trilho("gate", "--json", cwd=place, expect=0 if _promotes(place) else 5)
    verdict = json.loads(gate.stdout)
    trilho("report", cwd=place)
    assert verdict["candidate"] in (place / ".trilho/run/report.md").read_text()
    trilho("publish", "--allow-hold", "--reason", "first", cwd=place)
    again = trilho("publish", "--allow-hold", "--json", cwd=place)
    assert json.loads(again.stdout)["number"] == 1
    listed = json.loads(trilho("models", "--json", cwd=place).stdout)
    assert [d["version"]["number"] for d in listed] == [1]
    assert verdict["candidate"][7:19] in trilho("models", cwd=place).stdout
    shown = trilho("models", "show", "v1", cwd=place).stdout
    assert verdict["candidate"] in shown
    assert "same bundle" in trilho("models", "diff", "1", "v1", cwd=place).stderr
    runs = json.loads(trilho("runs", "--json", cwd=place).stdout)
    assert runs[0]["digest"] == verdict["candidate"]
    assert runs[0]["id"] in trilho("runs", cwd=place).stdout


def test_publish_judges_by_the_gates_as_they_are_now(place: Path, tmp_path: Path) -> None:
    """A verdict given before the gates were tightened, or the champion moved, ships nothing."""
    copy = tmp_path / "copy"
    shutil.copytree(place, copy)
    trilho("gate", cwd=copy, expect=_code(place))
    strict = ["--set", "gates.limits={roc_auc: {min: 0.999}}"]
    done = trilho("publish", "--allow-hold", *strict, cwd=copy, expect=4)
    assert "rejected" in done.stderr
    before = trilho("models", "--json", cwd=place).stdout
    assert trilho("models", "--json", cwd=copy).stdout == before


def _promotes(place: Path) -> bool:
    done = subprocess.run([TRILHO, "gate"], cwd=place, capture_output=True)
    assert done.returncode in (0, 5)
    return done.returncode == 0


def test_unchanged_inputs_are_recognised_and_changed_ones_are(place: Path) -> None:
    assert "= train" in trilho("train", cwd=place).stderr
    assert "= validate" in trilho("validate", cwd=place).stderr
    changed = trilho("evaluate", "--set", "model.seed=1", cwd=place, expect=2)
    assert "made from other inputs" in changed.stderr


def test_bad_rows_exit_3_with_column_check_value_and_line(place: Path, tmp_path: Path) -> None:
    for name in ("pipeline.yaml", "data_schemas"):
        source = place / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    frame = odd_frame()
    frame.loc[2, "member"] = "perhaps"
    frame.to_csv(tmp_path / "mydata.csv", index=False)
    done = trilho("validate", cwd=tmp_path, expect=3, env={"GITHUB_ACTIONS": "true"})
    assert "member" in done.stderr
    assert "perhaps" in done.stderr
    assert re.search(r"^::error file=mydata\.csv,line=4", done.stderr, re.M)
    report = trilho("retrain", cwd=tmp_path, expect=3)
    assert "error" in report.stderr
    assert "member" in (tmp_path / ".trilho/run/report.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["validate"], "pipeline.yaml does not exist"),
        (["deploy"], "pipeline.yaml does not exist"),
        (["serve"], "holds no bundle"),
        (["train", "--set", "nonsense"], "takes KEY=VALUE, not 'nonsense'"),
        (["train", "--params", "{max_iter: 5}"], "--params (TRILHO_PARAMS) takes a JSON object"),
        (["train", "--params", "[1]"], "takes a JSON object, not '[1]'"),
        (["train", "--search", "maybe"], "--search (TRILHO_SEARCH) takes on or off, not 'maybe'."),
        (["nonsense"], "No such command"),
    ],
)
def test_wrong_usage_is_one_message_and_exit_2(
    arguments: list[str], message: str, tmp_path: Path
) -> None:
    done = trilho(*arguments, cwd=tmp_path, expect=2)
    assert message in done.stderr


@pytest.mark.parametrize("value", ["yes", "True", "1", " true"])
def test_a_switch_in_the_environment_is_true_or_false(value: str, tmp_path: Path) -> None:
    for verb, variable in (
        ("validate", "TRILHO_FORCE"),
        ("retrain", "TRILHO_ALLOW_HOLD"),
        ("publish", "TRILHO_CANDIDATE"),
    ):
        done = trilho(verb, cwd=tmp_path, expect=2, env={variable: value})
        assert f"{variable} must be true or false, not {value!r}." in done.stderr
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("fine", ["true", "false", ""])
def test_a_switch_that_is_one_leads_on_to_the_next_trouble(fine: str, tmp_path: Path) -> None:
    done = trilho("validate", cwd=tmp_path, expect=2, env={"TRILHO_FORCE": fine})
    assert "pipeline.yaml does not exist" in done.stderr


def test_a_dataset_that_is_not_there_exits_3(tmp_path: Path) -> None:
    done = trilho("init", "none.csv", "--target", "y", cwd=tmp_path, expect=3)
    assert "none.csv does not exist" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_verbs_out_of_order_say_what_to_run(place: Path, tmp_path: Path) -> None:
    for name in ("pipeline.yaml", "data_schemas", "mydata.csv"):
        source = place / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    for verb in ("evaluate", "gate", "publish"):
        assert "Run `trilho train` first" in trilho(verb, cwd=tmp_path, expect=2).stderr
    assert "nothing to report" in trilho("report", cwd=tmp_path, expect=2).stderr
    assert "no bundle, so it is not clear what" in trilho("deploy", cwd=tmp_path, expect=2).stderr
    pipeline = tmp_path / "pipeline.yaml"
    pipeline.write_text(pipeline.read_text().split("\ndeploy:")[0])
    assert "no 'deploy' section" in trilho("deploy", cwd=tmp_path, expect=2).stderr


def test_damaged_bundle_is_refused_by_name_and_made_anew_by_train(
    place: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(place, copy)
    model = copy / ".trilho/run/bundle/model.joblib"
    model.write_bytes(model.read_bytes()[:-1])
    assert "model.joblib" in trilho("gate", cwd=copy, expect=3).stderr
    shutil.rmtree(copy / ".trilho/registry")
    trilho("train", cwd=copy)
    assert "model.joblib" not in trilho("gate", "--json", cwd=copy, expect=_code(place)).stderr


def _code(place: Path) -> int:
    return 0 if _promotes(place) else 5


def test_a_bundle_in_the_registry_is_fetched_not_trained_again(place: Path, tmp_path: Path) -> None:
    trilho("gate", cwd=place, expect=_code(place))
    trilho("publish", "--candidate", cwd=place)
    digest = json.loads((place / ".trilho/run/run.json").read_bytes())["digest"]
    fresh = tmp_path / "fresh"
    shutil.copytree(place, fresh, ignore=shutil.ignore_patterns("run"))
    done = trilho("train", "--json", cwd=fresh)
    assert "= train" in done.stderr
    assert json.loads(done.stdout)["digest"] == digest


def test_the_report_says_how_to_make_the_same_again(place: Path, tmp_path: Path) -> None:
    """With whatever was given beside the pipeline file, a setting a line, values with blanks."""
    copy = tmp_path / "copy"
    shutil.copytree(place, copy, ignore=shutil.ignore_patterns(".trilho"))
    shutil.move(copy / "mydata.csv", copy / "my data.csv")
    env = {
        "TRILHO_SET": "data.drop=[score, rare]\n\n model.seed=3 \ngates.calibration=1",
        "TRILHO_DATA": "my data.csv",
        "TRILHO_PARAMS": '{"max_iter": 5, "l2_regularization": 0.5}',
        "TRILHO_SEARCH": "off",
        "TRILHO_CONFIG": "",
        "TRILHO_ALLOW_HOLD": "true",
    }
    first = json.loads(trilho("retrain", "--json", cwd=copy, env=env).stdout)
    record = json.loads((copy / ".trilho/run/run.json").read_bytes())
    assert record["parameters"]["max_iter"] == 5
    report = (copy / ".trilho/run/report.md").read_text()
    (command,) = re.findall(r"^trilho (retrain --force .*)$", report, re.M)
    words = shlex.split(command)
    again = trilho(*words, "--allow-hold", "--run", "again", "--json", cwd=copy)
    assert json.loads(again.stdout)["candidate"] == first["candidate"]


def test_verbs_leave_their_outputs(place: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(place, copy)
    env = {"GITHUB_OUTPUT": str(tmp_path / "outputs"), "TRILHO_ALLOW_HOLD": "true"}

    def left(*arguments: str, expect: int = 0) -> dict[str, str]:
        (tmp_path / "outputs").unlink(missing_ok=True)
        trilho(*arguments, cwd=copy, env=env, expect=expect)
        return outputs(tmp_path / "outputs")

    record = json.loads((copy / ".trilho/run/run.json").read_bytes())
    data = {"rows": "600", "dataset-digest": record["dataset"]["digest"]}
    assert left("validate") == data
    verdict = {"verdict": "PROMOTE" if _promotes(place) else "HOLD", "changed": "true"}
    reports = {f"{what}-path": f".trilho/run/report.{end}" for what, end in FORMS.items()}
    model = {"model-digest": record["digest"], "trained": "false"}
    assert left("retrain") == data | verdict | model | reports
    # with HOLD and without the switch: the same outputs, and a check that fails
    env["TRILHO_ALLOW_HOLD"] = "false"
    assert left("retrain", expect=_code(place)) == data | verdict | model | reports

    frame = odd_frame()
    frame.loc[2, "member"] = "perhaps"
    frame.to_csv(copy / "mydata.csv", index=False)
    found = left("validate", expect=3)
    assert found["rows"] == "600"
    assert re.fullmatch("sha256:[0-9a-f]{64}", found["dataset-digest"])
    assert found["dataset-digest"] != data["dataset-digest"]
    assert left("retrain", expect=3) == found | reports


def test_runs_are_mirrored_to_mlflow(place: Path, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    env = {"MLFLOW_TRACKING_URI": uri, "MLFLOW_EXPERIMENT_NAME": "tried"}
    for _ in range(2):  # the second one finds the run logged
        trilho("train", cwd=place, env=env)
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("tried")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    record = json.loads((place / ".trilho/run/run.json").read_bytes())
    assert run.data.tags["trilho.digest"] == record["digest"]
    assert run.data.metrics["roc_auc"] == pytest.approx(record["metrics"]["roc_auc"])
    names = {a.path for a in client.list_artifacts(run.info.run_id)}
    assert {"evaluation.json", "model_card.md"} <= names


def test_a_tracking_server_that_is_away_costs_a_warning_not_the_run(place: Path) -> None:
    env = {
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "2",
    }
    assert "not logged to MLflow" in trilho("train", cwd=place, env=env).stderr


def with_champion(place: Path, folder: Path) -> tuple[Path, Alias]:
    """Copy the place and make its model the champion there."""
    copy = folder / "copy"
    shutil.copytree(place, copy)
    registry = open_registry(str(copy / ".trilho/registry"))
    if not registry.versions():
        trilho("publish", "--allow-hold", cwd=copy)
    return copy, registry.move_alias("champion", 1, expected=None, source=Source(actor="tester"))


def test_dropping_a_column_of_the_champion_is_compared_not_refused(
    place: Path, tmp_path: Path
) -> None:
    copy, _ = with_champion(place, tmp_path)
    dropped = ["--set", "data.drop=[score]"]
    trilho("train", *dropped, cwd=copy)
    # a report in between must not show the comparison of the bundle before
    trilho("report", *dropped, cwd=copy)
    done = trilho("evaluate", "--json", *dropped, cwd=copy)
    comparison = json.loads(done.stdout)
    assert comparison["impossible"] is None
    assert comparison["metrics"]["roc_auc"]["champion"] is not None


def test_the_champion_scored_beside_the_fit_compares_as_one_scored_afterwards(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy, champion = with_champion(place, tmp_path)
    trilho("train", "--params", '{"max_iter": 5}', cwd=copy)
    monkeypatch.chdir(copy)
    overrides = Overrides(params={"max_iter": 5})

    def compared(ahead: bool) -> Comparison | None:
        job = pipeline.Job(load(Path("pipeline.yaml"), overrides), force=True)
        if ahead:
            pipeline.all_steps(job)
            for task in job.later:
                task(job)
        assert (champion.digest in job.scores) == ahead
        return pipeline.evaluate(job).value

    found = compared(ahead=False)
    assert found is not None
    assert found.metrics["roc_auc"].difference
    assert compared(ahead=True) == found


IMPORTS = """
import importlib.abc, sys, threading
from trilho.cli import main

class Watch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if threading.current_thread() is not threading.main_thread():
            print("imported by a thread:", name)

sys.meta_path.insert(0, Watch())
main()
"""


def test_only_the_main_thread_imports(place: Path, tmp_path: Path) -> None:
    """Two threads that import what needs each other may leave a library half loaded."""
    copy, _ = with_champion(place, tmp_path)
    retrain = [
        sys.executable,
        "-c",
        IMPORTS,
        "retrain",
        "--force",
        "--set",
        "model.params.max_iter=5",
    ]
    done = subprocess.run(retrain, cwd=copy, capture_output=True, text=True)
    assert done.returncode in (0, 4, 5), done.stderr
    found = [line for line in done.stdout.splitlines() if "imported by a thread" in line]
    # an alphabet needs nothing else
    assert [line for line in found if " encodings." not in line] == []


def test_a_run_killed_between_bundle_and_record_is_told_and_mended(
    place: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(place, copy)
    before = (copy / ".trilho/run/run.json").read_bytes()
    other = ["--set", "model.params.max_iter=5"]
    trilho("train", *other, cwd=copy)
    (copy / ".trilho/run/run.json").write_bytes(before)  # what a kill leaves
    assert "tells of another bundle" in trilho("gate", *other, cwd=copy, expect=2).stderr
    shutil.rmtree(copy / ".trilho/registry")
    (copy / ".trilho/run/.stamps/run.json").unlink()
    trilho("train", *other, cwd=copy)
    assert trilho("gate", *other, cwd=copy, expect=_gate(copy, other)).stdout == ""


def _gate(folder: Path, settings: list[str]) -> int:
    done = subprocess.run([TRILHO, "gate", *settings], cwd=folder, capture_output=True)
    assert done.returncode in (0, 4, 5)
    return done.returncode


def test_text_from_data_starts_no_workflow_command(place: Path, tmp_path: Path) -> None:
    for name in ("pipeline.yaml", "data_schemas"):
        source = place / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    frame = odd_frame().rename(columns={"city": "::set-output name=verdict::PROMOTE"})
    frame.to_csv(tmp_path / "mydata.csv", index=False)
    done = trilho("validate", "--json", cwd=tmp_path, expect=3, env={"GITHUB_ACTIONS": "true"})
    json.loads(done.stdout)
    for line in done.stderr.splitlines():
        assert not re.match(r"\s*::(?!error |warning )", line), line


def test_mistakes_of_the_surroundings_are_no_defects(place: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    assert "cannot be read" in trilho("validate", "-c", "folder", cwd=tmp_path, expect=2).stderr
    (tmp_path / "pipeline.yaml").write_text("name: a\x01b\n")
    assert "not valid YAML" in trilho("validate", cwd=tmp_path, expect=2).stderr
    (tmp_path / "file").write_text("")
    done = trilho("train", "--run", str(tmp_path / "file"), "--force", cwd=place, expect=2)
    assert "file" in done.stderr


def test_what_is_said_is_neither_markup_nor_a_workflow_command(
    capsys: pytest.CaptureFixture[str],
) -> None:
    console.say("slice [/bold]\n::set-output name=verdict::PROMOTE ##[error]x")
    said = capsys.readouterr().err
    assert "[/bold]" in said
    assert "::" not in said
    assert "##[" not in said
