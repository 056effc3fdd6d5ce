"""The action `setup`: the environment it makes, and each mistake of a caller named in its place."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from setup_runner import PYTHON, UV, Runner, make_trilho, served
from wheels import make_source, make_wheel


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    if UV is None:
        pytest.skip("uv is not on PATH")
    runner = Runner(tmp_path)
    for folder in (runner.checkout / "src", runner.wheels, runner.home.parent):
        folder.mkdir(parents=True)
    lock = make_wheel(runner.wheels, "numbers", "2.4.0") + make_wheel(
        runner.wheels, "frames", "3.1.0", "numbers>=2"
    )
    make_wheel(runner.wheels, "numbers", "1.26.0")
    make_wheel(runner.wheels, "frames", "2.0.0", "numbers")
    make_trilho(runner.trilho, lock, "trilho of the action")
    return runner


def trilho_says(runner: Runner) -> str:
    program = runner.home / "venv" / "bin" / "trilho"
    return subprocess.run([program], capture_output=True, text=True, check=True).stdout.strip()


# What is made


def test_the_environment_holds_the_lock_and_trilho_and_nothing_else(runner: Runner) -> None:
    result = runner.setup()
    assert result.code == 0, result.log
    assert runner.installed() == {"numbers==2.4.0", "frames==3.1.0", "trilho==0.1.0"}
    assert result.paths == [str(runner.home / "venv" / "bin")]
    assert trilho_says(runner) == "trilho of the action"


def test_the_plan_names_the_environment_and_keys_the_cache_by_all_that_fills_it(
    runner: Runner,
) -> None:
    outputs = runner.setup("plan").outputs
    lock = runner.trilho / "requirements.txt"
    digest = subprocess.check_output(["sha256sum", lock], text=True).split()[0]
    assert outputs["environment"] == str(runner.home / "venv")
    assert outputs["lock-digest"] == digest
    assert outputs["cache-key"] == f"trilho-uv-Linux-X64-py{PYTHON}-{digest}"
    assert Path(outputs["cache-path"]).parent == runner.home

    (runner.checkout / "more.txt").write_text("numbers\n")
    keys = {
        outputs["cache-key"],
        runner.setup("plan", requirements="more.txt").outputs["cache-key"],
        runner.setup("plan", python_version="3.14").outputs["cache-key"],
    }
    lock.write_text(lock.read_text() + "# another lock\n")
    keys.add(runner.setup("plan").outputs["cache-key"])
    assert len(keys) == 4


def test_a_package_of_another_hash_is_refused(runner: Runner) -> None:
    lock = runner.trilho / "requirements.txt"
    lock.write_text(re.sub(r"sha256:.", "sha256:0", lock.read_text()))
    make_wheel(runner.wheels, "numbers", "2.4.0", "frames")
    result = runner.setup()
    assert result.code == 1
    assert "Hash mismatch" in result.annotations[0]


def test_a_package_without_a_hash_is_refused(runner: Runner) -> None:
    lock = runner.trilho / "requirements.txt"
    lock.write_text(re.sub(r" --hash=.*\n", "\n", lock.read_text(), count=1))
    result = runner.setup()
    assert result.code == 1
    assert "hash" in result.annotations[0]


def test_nothing_of_the_lock_is_built_here(runner: Runner) -> None:
    """A source distribution runs its own code; the right hash makes that no better."""
    ran = runner.folder / "ran"
    line = make_source(runner.wheels, "sourced", leaves=ran)
    lock = runner.trilho / "requirements.txt"
    lock.write_text(lock.read_text() + line)
    result = runner.setup()
    assert not ran.exists()
    assert result.code == 1
    assert "sourced" in result.annotations[0]


def test_no_build_tool_is_fetched_for_trilho_itself(runner: Runner) -> None:
    ran = runner.folder / "ran"
    index = runner.folder / "index"
    (index / "tool").mkdir(parents=True)
    make_source(index / "tool", "tool", leaves=ran)
    project = runner.trilho / "pyproject.toml"
    backend = '[build-system]\nrequires = ["tool"]\nbuild-backend = "tool"\n'
    text = re.sub(r"\[build-system\].*?\n\n", f"{backend}\n", project.read_text(), flags=re.S)
    project.write_text(text)
    with served(index) as address:
        runner.environment |= {"UV_OFFLINE": "0", "UV_DEFAULT_INDEX": address}
        result = runner.setup()
    assert not ran.exists()
    assert result.code != 0
    assert "Trilho cannot be installed" in result.annotations[0]


def test_the_source_joins_pythonpath_behind_what_is_there_and_once(runner: Runner) -> None:
    source = str(runner.checkout / "src")
    assert runner.setup("install").exported == {"PYTHONPATH": source}
    runner.environment["PYTHONPATH"] = "/opt/one"
    assert runner.setup("install").exported == {"PYTHONPATH": f"/opt/one:{source}"}
    runner.environment["PYTHONPATH"] = f"/opt/one:{source}"
    assert runner.setup("install").exported == {"PYTHONPATH": f"/opt/one:{source}"}


def test_a_project_in_a_folder_of_the_checkout(runner: Runner) -> None:
    (runner.checkout / "models" / "one" / "lib").mkdir(parents=True)
    result = runner.setup("install", working_directory="models/one", source="lib")
    assert result.exported == {"PYTHONPATH": str(runner.checkout / "models" / "one" / "lib")}


def test_a_project_without_a_source_folder_needs_none(runner: Runner) -> None:
    (runner.checkout / "src").rmdir()
    result = runner.setup("install")
    assert (result.code, result.exported) == (0, {})


def test_a_checkout_that_holds_trilho_is_what_gets_installed(runner: Runner) -> None:
    shutil.rmtree(runner.checkout)
    lock = make_wheel(runner.wheels, "numbers", "2.5.0")
    make_trilho(runner.checkout, lock, "trilho of the checkout")
    result = runner.setup()
    assert result.code == 0, result.log
    assert trilho_says(runner) == "trilho of the checkout"
    assert runner.installed() == {"numbers==2.5.0", "trilho==0.1.0"}


# Twice in a job


def test_twice_in_a_job_the_second_time_is_as_if_it_were_the_first(runner: Runner) -> None:
    make_wheel(runner.wheels, "extra", "1.0.0")
    (runner.checkout / "more.txt").write_text("extra\n")
    assert runner.setup(requirements="more.txt").code == 0
    assert "extra==1.0.0" in runner.installed()
    kept = runner.home / "venv" / "kept"
    kept.touch()

    # the same version in pyproject.toml, the same size of the file: only its content differs
    main = runner.trilho / "src" / "trilho" / "__init__.py"
    main.write_text(main.read_text().replace("of the action", "of the branch"))
    assert runner.setup().code == 0
    assert trilho_says(runner) == "trilho of the branch"
    assert "extra==1.0.0" not in runner.installed()
    assert kept.exists(), "the environment was made anew for nothing"


def test_another_python_makes_another_environment(runner: Runner) -> None:
    assert runner.setup().code == 0
    left = runner.home / "venv" / "left"
    left.touch()
    (runner.home / "python-version").write_text("3.10")
    assert runner.setup().code == 0
    assert not left.exists()


def test_modules_compiled_once_serve_the_next_environment(runner: Runner) -> None:
    assert runner.setup().code == 0
    kept = Path(runner.setup("plan").outputs["cache-path"])
    runner.python("import frames")
    [compiled] = kept.glob("pycache/**/frames.*.pyc")
    before = compiled.stat().st_mtime_ns
    shutil.rmtree(runner.home / "venv")
    assert runner.setup().code == 0
    assert runner.python("import frames; print(frames.__cached__)") == str(compiled)
    assert compiled.stat().st_mtime_ns == before


# The caller's own requirements


def test_requirements_stand_beside_the_lock_in_versions_that_fit_it(runner: Runner) -> None:
    make_wheel(runner.wheels, "extra", "1.0.0", "numbers>=2")
    make_wheel(runner.wheels, "extra", "2.0.0", "numbers>=9")
    (runner.checkout / "more.txt").write_text("extra  # mine\nframes>=3\ntrilho>=0.1\n")
    result = runner.setup(requirements="more.txt")
    assert result.code == 0, result.log
    expected = {"numbers==2.4.0", "frames==3.1.0", "trilho==0.1.0", "extra==1.0.0"}
    assert runner.installed() == expected


def test_every_conflict_is_named_with_both_sides_and_its_line(runner: Runner) -> None:
    make_wheel(runner.wheels, "fine", "1.0.0")
    make_wheel(runner.wheels, "middle", "1.0.0", "deep")
    make_wheel(runner.wheels, "deep", "0.5.0", "numbers<2")
    shared = runner.checkout / "shared"
    shared.mkdir()
    (shared / "all.txt").write_text("-r base.txt\n")
    (shared / "base.txt").write_text("# for all\nframes==2.0.0\n")
    (runner.checkout / "more.txt").write_text(
        "-r shared/all.txt\n"
        "fine\n"
        'numbers==1; python_version < "3"\n'
        "numbers \\\n"
        "    <2,>=1\n"
        "\n"
        "middle\n"
        "Numbers < 2\n"
    )
    result = runner.setup(requirements="more.txt")
    assert result.code == 2
    shown = [line.split("%0A")[0] for line in result.annotations]
    assert shown == [
        "::error title=setup,file=shared/base.txt,line=2::"
        "frames: this line wants frames==2.0.0, the lock holds 3.1.0.",
        "::error title=setup,file=more.txt,line=4::"
        "numbers: this line wants numbers>=1,<2, the lock holds 2.4.0.",
        "::error title=setup,file=more.txt,line=7::"
        "numbers: deep (by middle) wants numbers<2, the lock holds 2.4.0.",
        "::error title=setup,file=more.txt,line=8::"
        "numbers: this line wants numbers<2, the lock holds 2.4.0.",
    ]


def test_a_conflict_among_the_callers_own_lines_is_told_in_uvs_words(runner: Runner) -> None:
    make_wheel(runner.wheels, "extra", "1.0.0")
    make_wheel(runner.wheels, "extra", "2.0.0")
    make_wheel(runner.wheels, "other", "1.0.0", "extra<2")
    (runner.checkout / "more.txt").write_text("extra>=2\nother\n")
    result = runner.setup(requirements="more.txt")
    assert result.code == 2
    [shown] = result.annotations
    assert shown.startswith("::error title=setup,file=more.txt::more.txt cannot be installed.")
    assert "other" in shown
    assert "extra>=2" in shown


def test_a_package_that_does_not_exist_is_no_conflict_with_the_lock(runner: Runner) -> None:
    (runner.checkout / "more.txt").write_text("numbers\nno-such-package\n")
    result = runner.setup(requirements="more.txt")
    assert result.code == 2
    [shown] = result.annotations
    assert shown.startswith("::error title=setup,file=more.txt,line=2::no-such-package cannot be")
    assert "lock holds" not in shown


def test_after_a_conflict_the_next_setup_is_whole_again(runner: Runner) -> None:
    make_wheel(runner.wheels, "deep", "0.5.0", "numbers<2")
    (runner.checkout / "more.txt").write_text("deep\n")
    assert runner.setup(requirements="more.txt").code == 2
    assert runner.setup().code == 0
    assert runner.installed() == {"numbers==2.4.0", "frames==3.1.0", "trilho==0.1.0"}


def test_the_callers_surroundings_change_nothing_of_the_lock(runner: Runner) -> None:
    (runner.checkout / "uv.toml").write_text(
        'required-version = "==0.0.1"\noverride-dependencies = ["numbers==1.26.0"]\n'
    )
    runner.environment |= {
        "VIRTUAL_ENV": str(runner.folder / "elsewhere"),
        "UV_SYSTEM_PYTHON": "1",
        "UV_PYTHON": "3.8",
    }
    result = runner.setup()
    assert result.code == 0, result.log
    assert runner.installed() == {"numbers==2.4.0", "frames==3.1.0", "trilho==0.1.0"}
    assert not (runner.folder / "elsewhere").exists()


# Wrong inputs


def test_all_wrong_inputs_are_named_at_once(runner: Runner) -> None:
    result = runner.setup(python_version="3.9", requirements="nope.txt", source="lib")
    assert result.code == 2
    assert result.annotations == [
        "::error title=setup::python-version is '3.9': expected 3.11 to 3.14, such as '3.12'.",
        f"::error title=setup::requirements: there is no file nope.txt in {runner.checkout}.",
        f"::error title=setup::source: there is no folder lib in {runner.checkout}.",
    ]
    assert "Traceback" not in result.log
    assert not runner.home.exists()


@pytest.mark.parametrize("version", ["", "3", "3.12-dev", "3.x", "pypy3.11", "3.100", ">=3.12"])
def test_what_is_no_version_of_python(runner: Runner, version: str) -> None:
    result = runner.setup("plan", python_version=version)
    assert (result.code, len(result.annotations)) == (2, 1)


def test_a_missing_working_directory_is_named(runner: Runner) -> None:
    result = runner.setup("plan", working_directory="models")
    assert result.code == 2
    assert result.annotations == [
        "::error title=setup::working-directory: there is no folder models in the checkout."
    ]


def test_no_input_ends_its_annotation_and_starts_a_command(runner: Runner) -> None:
    result = runner.setup("plan", requirements="x\n::set-env name=A::b")
    assert len(result.annotations) == 1
    assert result.annotations[0].startswith(
        "::error title=setup::requirements: there is no file x%0A"
    )


def test_without_a_network_it_is_not_the_callers_fault(runner: Runner) -> None:
    runner.environment |= {"UV_DEFAULT_INDEX": "http://127.0.0.1:9/simple", "UV_HTTP_RETRIES": "0"}
    runner.environment |= {"UV_OFFLINE": "0", "UV_FIND_LINKS": ""}
    result = runner.setup()
    assert result.code == 7, result.log
    assert "cannot be installed" in result.annotations[0]
