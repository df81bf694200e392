import os
import re
import subprocess

import family_models
import pytest
import yaml

LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)")  # to a file
IDENTITY = {f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


@pytest.fixture
def queries(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, value in IDENTITY.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "queries.csv").write_text("query;intent\n")
    return tmp_path


def test_a_project_of_ones_own(queries, intents):
    """It is committed whole, has our settings but those given, none of our results, and DVC reads it."""
    family_models.save("roberta", "my-model")
    arguments = ["--data", "queries.csv", "--model", "my-model", "--text-column", "query"]
    assert intents("init", "mine", *arguments).startswith("mine: next, cd mine")
    params = yaml.safe_load((queries / "mine" / "params.yaml").read_text())
    assert params["data"]["source"] == "files"
    assert params["data"]["path"] == str(queries / "queries.csv")
    assert (params["data"]["text_column"], params["data"]["out_of_scope"]) == ("query", None)
    assert params["teacher"]["model"] == params["teacher"]["path"] == str(queries / "my-model")
    tracked = subprocess.check_output(["git", "ls-files"], cwd="mine", text=True).splitlines()
    assert {"dvc.yaml", "params.yaml", "conf/config.yaml", ".dvc/config", "stages/compress.py"} < {*tracked}
    assert not [name for name in tracked if name.startswith(("metrics", "tests", "dvc.lock", "data"))]
    pages = [queries / "mine" / name for name in tracked if name.endswith(".md")]
    links = [(page, link) for page in pages for link in LINK.findall(page.read_text())]
    assert len(links) > 20 and not [(page, link) for page, link in links if not (page.parent / link).exists()]
    assert not subprocess.check_output(["git", "status", "--porcelain"], cwd="mine")
    environment = {**os.environ, "DVC_NO_ANALYTICS": "1"}
    stages = subprocess.check_output(["dvc", "stage", "list"], cwd="mine", text=True, env=environment)
    assert "vocabulary@structured-vocabulary" in stages
    assert sorted(path.name for path in queries.iterdir()) == ["mine", "my-model", "queries.csv"]


def test_what_is_refused(queries, intents):
    (queries / "there").mkdir()
    assert "there exists: name a new folder" in intents("init", "there", "--data", "queries.csv", fails=1)
    assert "none.csv does not exist" in intents("init", "mine", "--data", "none.csv", fails=1)
    assert not (queries / "mine").exists()
