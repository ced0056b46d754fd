"""`adin problem check` and `adin problem new`: every mistake at once with its place; a skeleton without one."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest
from adin import problem_check, skeleton
from adin.errors import ConfigError, ConflictError
from adin.features import repo
from adin.problem import names
from adin.settings import ROOT, settings

pytestmark = pytest.mark.flow(22)


@pytest.fixture
def place(monkeypatch, tmp_path):
    """Empty folders for problems and features."""
    monkeypatch.setenv("ADIN_PROBLEMS", str(tmp_path / "problems"))
    monkeypatch.setenv("ADIN_FEATURE_REPO", str(tmp_path / "features"))
    settings.cache_clear()
    repo.read_anew()
    yield tmp_path
    monkeypatch.undo()
    settings.cache_clear()
    repo.read_anew()


@pytest.fixture
def bread(place):
    """A new problem, and its problem.yaml."""
    skeleton.make("bread", "tests")
    return place / "problems" / "bread" / "problem.yaml"


def told(name: str = "bread") -> dict[str, tuple[int, str]]:
    """What was found: key -> line and remedy."""
    return {each.what.partition(":")[0]: (each.line, each.remedy) for each in problem_check.check(name)}


def change(file, **lines: str) -> None:
    """Replace whole lines that begin with a key."""
    text = file.read_text().splitlines()
    for key, line in lines.items():
        text[next(n for n, old in enumerate(text) if old.startswith(f"{key}:"))] = line
    file.write_text("\n".join(text))


def test_no_shipped_problem_has_a_mistake():
    assert {name: problem_check.check(name) for name in names()} == {name: [] for name in names()}


def test_a_new_problem_has_no_mistake(bread):
    assert problem_check.check("bread") == []


def test_every_mistake_is_found_in_one_pass_with_its_line_and_remedy(bread):
    change(
        bread,
        task="task: regression",
        features="features: breads",
        label="label: {table: bread.outcome, column: value_next, known_after: soon}",
        run='run: {cron: "0 25 * * *", on_data: braed}',
        train="trian: {params: {}}",
        example="example: {asked_at: x}",
    )
    with bread.open("a") as file:
        file.write("\nserving: {max_age: {bread_latst: 1h}}\n")
    text = bread.read_text().replace("primary: mae", "primary: log_loss").replace("bread_latest__value ", "nothing ")
    bread.write_text(text)
    found = told()
    assert found["label.known_after"][0] == found["label.table"][0] == 7
    assert found["label.table"][1] == "Did you mean bread.outcomes?"
    assert found["trian"] == (10, "Did you mean train?")
    assert found["run.cron"][0] == 11
    assert found["run.on_data"] == (11, "Did you mean bread?")
    assert found["promotion.primary"] == (14, "Write one of mae, rmse.")
    assert "features" in found
    assert len(found) == 7


def test_names_of_features_views_and_request_values_are_compared_with_the_service(bread):
    change(bread, example="example: {asked_at: x}")
    text = bread.read_text().replace("baseline: bread_latest__value", "baseline: bread_latest__valu")
    bread.write_text(text + "\nserving: {max_age: {bread_latst: 1h}}\n")
    found = told()
    assert found["promotion.baseline"][1] == "Did you mean bread_latest__value?"
    assert found["serving.max_age.bread_latst"][1] == "Did you mean bread_latest?"
    assert found["example"][0] == 17
    assert len(found) == 3


@pytest.mark.parametrize(
    ("code", "line", "what"),
    [
        ("def fit(train, label:\n", 1, "no Python"),
        ("import x\n\ndef fit(train):\n    pass\n", 3, "fit takes other arguments"),
        ("def train():\n    pass\n", 1, "there is no function fit"),
        (None, 1, "the file is missing"),
    ],
)
def test_mistakes_in_the_code_are_told_beside_those_in_the_form(bread, code, line, what):
    change(bread, task="task: cooking")
    file = bread.with_name("train.py")
    file.write_text(code) if code else file.unlink()
    form, of_code = problem_check.check("bread")
    assert (form.file, form.line) == (bread, 2)
    assert (of_code.file, of_code.line) == (file, line)
    assert what in of_code.what


@pytest.mark.parametrize(("text", "line"), [("a: 1\nb: [\n", 3), ("name: bread\nowner: a\nowner: b\n", 3)])
def test_a_file_that_is_no_yaml_or_says_a_thing_twice_is_told_with_its_line(bread, text, line):
    bread.write_text(text)
    (found,) = problem_check.check("bread")
    assert found.line == line


def test_nothing_is_written_over(bread):
    before = bread.read_text()
    with pytest.raises(ConflictError, match="there already"):
        skeleton.make("bread", "others")
    assert bread.read_text() == before


@pytest.mark.parametrize("name", ["", "Bread", "../bread", "bread-sales"])
def test_a_name_that_cannot_be_one_is_refused(place, name):
    with pytest.raises(ConfigError):
        skeleton.make(name, "tests")


def test_a_new_problem_trains_at_once(bread, place):
    python = ROOT / ".venv-ml" / "bin" / "python"
    shutil.copy(bread.with_name("test_train.py"), place / "test_train.py")
    done = subprocess.run(
        [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, place / "test_train.py"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


@pytest.mark.flow(15)
@pytest.mark.parametrize(
    ("line", "key", "remedy"),
    [
        ("drift: {window: 36h}", "drift", "docs/problems.md"),
        ("drift: {windoes: 3}", "drift.windoes", "windows"),
        ("drift: {min_rows: 0}", "drift.min_rows", "docs/problems.md"),
        ("drift: {floors: {pssi: 0.2}}", "drift.floors.pssi.[key]", "docs/problems.md"),
        ("drift: {ignore: [nowhere__x]}", "drift.ignore.0", "Known"),
    ],
)
def test_mistakes_in_the_drift_block_are_told_with_their_line_and_remedy(bread, line, key, remedy):
    bread.write_text(bread.read_text().rstrip("\n") + f"\n{line}\n")
    last = len(bread.read_text().splitlines())
    found = told()
    assert found[key][0] == last
    assert remedy in found[key][1]
