import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import save_as_hub, tiny_bert, word_tokenizer

import stages.download
from stages.data import clinc150, domains, tables

ROOT = Path(__file__).parents[1]
SAMPLE = str(ROOT / "stages/data/sample")
QUERIES = [(f"{intent} {i}", intent) for intent in ("transfer", "balance", "oos") for i in range(10)]
CLINC = {
    "train": [["balance please", "balance"], ["send 5 dollars", "transfer"], ["is it raining", "oos"]],
    "val": [["sing", "oos"]],
    "test": [["move money", "transfer"]],
}


@pytest.fixture
def download(tmp_path, monkeypatch):
    """Run the stage in an empty folder on a source's settings of conf/data/, changed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CLINC150_PATH", raising=False)

    def run(source, seed=0, teacher=None, **changes):
        values = yaml.safe_load((ROOT / "params.yaml").read_text())
        data = yaml.safe_load((ROOT / f"conf/data/{source}.yaml").read_text()) | {"outliers": []}
        values["teacher"] |= teacher or {}
        Path("params.yaml").write_text(yaml.safe_dump(values | {"data": data | changes, "seed": seed}))
        stages.download.main()

    return run


def fails(download, source, **changes):
    """The line that the stage ends with; what is written is as it was."""
    before = written()
    with pytest.raises(SystemExit) as caught:
        download(source, **changes)
    line = caught.value.code
    assert line.startswith("error: ") and "\n" not in line
    assert written() == before
    assert not list(Path().glob(".*.part"))
    return line


def written():
    files = [*Path("data").glob("*"), *Path().glob("domains.json"), *Path().glob("outliers.json")]
    return {path.name: path.read_bytes() for path in files}


def write_csv(path, rows):
    Path(path).parent.mkdir(exist_ok=True)
    Path(path).write_text("text,intent\n" + "".join(f"{text},{intent}\n" for text, intent in rows))


def write_folder(train, validation, test):
    for split, rows in (("train", train), ("validation", validation), ("test", test)):
        write_csv(f"queries/{split}.csv", rows)


def write_clinc(labels=("transfer", "oos", "balance"), **splits):
    Path("clinc.json").write_text(json.dumps(CLINC | splits))
    checksum = clinc150.checksum(clinc150.read_json(Path("clinc.json")))
    known = {"sha256": checksum, "labels": labels, "domains": {"banking": ["transfer", "balance"]}}
    Path("known.json").write_text(json.dumps(known))


def test_sample(download, capsys):
    download("sample", path=SAMPLE)
    splits = {split: tables.read(split) for split in tables.SPLITS}
    labels = tables.read_labels()
    assert labels.names == sorted(labels.names) and labels.out_of_scope == "oos"
    for table in splits.values():
        assert set(table["label"]) == set(range(len(labels.names)))
    in_domains = [intent for intents in domains.read().values() for intent in intents]
    assert sorted([*in_domains, "oos"]) == labels.names
    rows = sum(map(len, splits.values()))
    assert capsys.readouterr().out.splitlines() == [
        f"{rows:,} rows read, {rows:,} used",
        *(f"{split}: {len(table):,} queries, {len(labels.names)} intents" for split, table in splits.items()),
    ]
    first = written()
    download("sample", path=SAMPLE)
    assert written() == first
    download("sample", path=SAMPLE, seed=1)
    assert written()["train.parquet"] != first["train.parquet"]


def test_unlabelled_text(download, capsys):
    write_csv("queries.csv", QUERIES)
    Path("logs.txt").write_text("TRANSFER 3\nwhere is my parcel\n\nOos  1\nwhere is  my parcel\n")
    download("files")
    assert tables.read("unlabelled")["text"].tolist() == []
    without = written()
    download("files", unlabelled={"files": ["logs.txt"], "files_path": "logs.txt"})
    assert tables.read("unlabelled")["text"].tolist() == ["where is my parcel"]
    assert capsys.readouterr().out.endswith("\nunlabelled: 1 texts\n")
    assert {**without, "unlabelled.parquet": b""} == {**written(), "unlabelled.parquet": b""}


def test_files(download, capsys):
    write_csv("queries.csv", QUERIES)
    download("files")
    assert tables.read_labels() == tables.Labels(["balance", "oos", "transfer"], "oos")
    back = [
        (text, ["balance", "oos", "transfer"][label])
        for split in tables.SPLITS
        for text, label in tables.read(split)[["text", "label"]].itertuples(index=False)
    ]
    assert sorted(back) == sorted(QUERIES)
    assert domains.read() == {}
    assert capsys.readouterr().out.splitlines()[:4] == [
        "30 rows read, 30 used",
        "train: 21 queries, 3 intents",
        "validation: 3 queries, 3 intents",
        "test: 6 queries, 3 intents",
    ]
    first = written()
    download("files", seed=1)
    assert written()["test.parquet"] != first["test.parquet"]


def test_clinc150(download):
    write_clinc()
    download("clinc150", path="known.json", local="clinc.json")
    assert tables.read_labels() == tables.Labels(["transfer", "oos", "balance"], "oos")
    assert tables.read("train")["label"].tolist() == [2, 0, 1]
    assert domains.read() == {"banking": ["transfer", "balance"]}


def test_clinc150_keeps_the_first_of_a_text_that_has_two_intents(download, capsys):
    """As the real one has two in train and test, and two in train and validation."""
    write_clinc(train=[*CLINC["train"], ["Move money", "balance"], ["sing", "balance"]])
    download("clinc150", path="known.json", local="clinc.json")
    assert len(tables.read("train")) == 3
    account = capsys.readouterr().out.splitlines()[0]
    assert account == (
        "7 rows read, 5 used, 2 dropped: 1 of train that test has with another intent, 1 of train that "
        "validation has with another intent"
    )


def test_outliers(download, capsys):
    """They may be the only queries out of scope; none goes to test, and none that a held-out query equals."""
    save_as_hub(tiny_bert(), word_tokenizer(), "hub")
    in_scope = [(f"{word} w{i}", word) for word in ("money", "balance") for i in range(20, 35)]
    write_csv("queries.csv", in_scope)
    lines = [*(f"car w{i} in w{i + 1}" for i in range(20, 40)), "MONEY w20", "car  w20 IN w21"]
    Path("near.txt").write_text("\n".join(lines))
    files = {"outliers": [{"path": "near.txt", "weight": 4.0}], "outliers_path": "near.txt"}
    teacher = {"source": "hub", "model": "hub", "path": "hub", "sha256": None}
    assert "no training query has the out-of-scope intent 'oos'" in fails(download, "files", teacher=teacher)
    download("files", teacher=teacher, **files)
    (account,) = json.loads(Path("outliers.json").read_text())
    kept = account["train"] + account["validation"]
    assert account["read"] == 22 == kept + sum(map(len, account["dropped"].values()))
    assert account["dropped"]["repeated"] == ["car  w20 IN w21"] and account["highest_cosine"] < 0.9
    assert account["validation"] == np.floor(0.1 * kept + 0.5)
    train, validation, test = (tables.read(split) for split in tables.SPLITS)
    assert (train["label"] == 2).sum() == account["train"] and not (test["label"] == 2).any()
    assert (validation["label"] == 2).sum() == account["validation"]
    assert train["weight"].tolist() == [4.0 if label == 2 else 1.0 for label in train["label"]]
    assert f"near.txt: 22 lines read, {account['train']} for train, " in capsys.readouterr().out
    first = written()
    download("files", teacher=teacher, **files)
    assert written() == first
    download("files", teacher=teacher, **files, seed=1)
    assert written()["validation.parquet"] != first["validation.parquet"]


def test_the_weight_of_out_of_scope(download):
    write_csv("queries.csv", QUERIES)
    download("files", out_of_scope_weight=4)
    train = tables.read("train")
    assert train["weight"].tolist() == [4.0 if label == 1 else 1.0 for label in train["label"]]
    assert json.loads(Path("outliers.json").read_text()) == []


def test_torch_is_imported_for_outliers_alone(download):
    write_csv("queries.csv", QUERIES)
    download("files")
    code = "import sys; from stages import download; download.main(); "
    code += "sys.exit(any(m in sys.modules for m in ('torch', 'transformers')))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 0


@pytest.mark.parametrize(("name", "expected"), [("transfer", 2), (None, None)])
def test_the_name_of_out_of_scope(download, name, expected):
    write_csv("queries.csv", QUERIES)
    download("files", out_of_scope=name)
    assert tables.read_labels().out_of_scope_id == expected


def test_sample_without_out_of_scope(download):
    download("sample", path=SAMPLE, out_of_scope=None)
    labels = tables.read_labels()
    assert labels.out_of_scope is None and len(labels.names) >= 40 and "oos" not in labels.names


@pytest.mark.parametrize("before", [False, True], ids=["fresh", "again"])
@pytest.mark.parametrize(
    ("source", "changes", "message"),
    [
        (
            "files",
            {"out_of_scope": "none_of_these"},
            "no training query has the out-of-scope intent 'none_of_these': set data.out_of_scope to its "
            "name, or to null if there is none",
        ),
        ("files", {"path": "nowhere.csv"}, "nowhere.csv does not exist: set data.path to your file"),
        (
            "files",
            {"text_column": "query"},
            "queries.csv has no column 'query'; it has 'text', 'intent': set",
        ),
        (
            "files",
            {"duplicates": "keep"},
            "params.yaml: data.duplicates is 'keep': should be 'error', 'drop' or",
        ),
        (
            "files",
            {"outliers": [{"path": "nowhere.txt"}], "outliers_path": "nowhere.txt"},
            "nowhere.txt cannot be read (No such file or directory): correct data.outliers",
        ),
        ("sample", {"path": "nowhere"}, "nowhere has no queries for train: add some, or correct data.path"),
        (
            "clinc150",
            {"local": "nowhere.json"},
            "nowhere.json cannot be read (No such file or directory): get",
        ),
        ("clinc150", {"local": "queries.csv"}, "queries.csv: not JSON (Expecting value"),
        ("clinc150", {"local": "clinc.json"}, "clinc.json is not CLINC150 plus as published (checksum"),
        ("clinc150", {"path": "nowhere.json"}, "nowhere.json does not give labels and sha256"),
        ("clinc150", {}, "cannot load 'clinc_oos' from the hub ("),
    ],
)
def test_an_error_is_one_line_and_leaves_data_as_it_was(download, source, changes, message, before):
    write_csv("queries.csv", QUERIES)
    write_clinc()
    if before:
        download("files")
    if source == "clinc150":
        changes = {"path": str(ROOT / "stages/data/clinc150.json")} | changes
    assert fails(download, source, **changes).startswith(f"error: {message}")


def test_intents_that_train_lacks(download):
    held_out = [("a", "balance"), ("b", "new"), ("c", "newer"), ("d", "oos")]
    write_folder(QUERIES, held_out[:1], held_out[1:])
    assert fails(download, "files", path="queries") == (
        "error: test has intents that train lacks (new, newer): add training queries for them, or correct "
        "the names"
    )


@pytest.mark.parametrize("empty", ["train", "validation", "test"])
def test_a_split_without_queries(download, empty):
    splits = {"train": QUERIES, "validation": [("a", "oos")], "test": [("b", "oos")]} | {empty: []}
    write_folder(**splits)
    assert fails(download, "files", path="queries") == (
        f"error: queries has no queries for {empty}: add some, or correct data.path"
    )


def test_leaks_are_dropped_and_counted(download, capsys):
    test = [("TRANSFER 3", "transfer"), ("oos 99", "oos")]
    validation = [("balance 99", "balance"), ("oos  99", "oos")]
    write_folder(QUERIES, validation, test)
    download("files", path="queries")
    assert tables.read("test")["text"].tolist() == ["TRANSFER 3", "oos 99"]
    assert tables.read("validation")["text"].tolist() == ["balance 99"]
    assert len(tables.read("train")) == 29
    assert capsys.readouterr().out.splitlines()[0] == (
        "34 rows read, 32 used, 2 dropped: 1 of validation that test has already, 1 of train that test has "
        "already"
    )
    assert fails(download, "files", path="queries", duplicates="error").startswith(
        "error: queries/validation.csv, line 3 ('oos  99') and queries/test.csv, line 3 are one text to the"
    )
    write_folder(QUERIES, validation, [("TRANSFER 3", "oos")])
    assert "have the intents 'oos' and 'transfer'" in fails(download, "files", path="queries")


@pytest.mark.parametrize(
    "text", ["Where is my card?", "where is my card ?", " where is  my card?", "whére is my card?"]
)
def test_one_text_to_an_uncased_teacher(download, text):
    """The ten copies of BANKING77's train that its test has differ in case, in spaces, or before a mark."""
    write_folder(
        [*QUERIES, (text, "balance")], [("balance 99", "balance")], [("where is my card?", "balance")]
    )
    download("files", path="queries")
    assert len(tables.read("train")) == len(QUERIES)


def test_words_that_the_teacher_does_not_know(download, capsys):
    rows = [("yes 👍", "balance"), ("yes 👎", "transfer"), ("no 👍", "oos")]
    write_csv("queries.csv", [*QUERIES, *rows])
    download("files")
    assert capsys.readouterr().out.splitlines()[:2] == [
        "33 rows read, 33 used",
        "2 queries differ from one of another intent only in words that the teacher does not know",
    ]


def test_a_text_that_is_cut_off(download):
    long = " ".join(f"w{i}" for i in range(40))
    write_folder(QUERIES, [("balance 99", "balance")], [(f"{long} a", "oos")])
    write_csv("queries/train.csv", [*QUERIES, (f"{long} b", "oos")])
    download("files", path="queries")
    assert len(tables.read("train")) == 30
    download("files", path="queries", max_length=128)
    assert len(tables.read("train")) == 31


def test_a_folder_without_validation(download):
    write_folder(QUERIES, [], [("balance 99", "balance"), ("oos 99", "oos"), ("oos 0", "oos")])
    Path("queries/validation.csv").unlink()
    download("files", path="queries")
    assert {split: len(tables.read(split)) for split in tables.SPLITS} == {
        "train": 26,
        "validation": 3,
        "test": 3,
    }
    assert tables.read("test")["text"].tolist() == ["balance 99", "oos 99", "oos 0"]


def test_no_query_is_left(download):
    write_folder(QUERIES, [("oos  1", "oos")], [("OOS 1", "oos")])
    assert fails(download, "files", path="queries") == (
        "error: no query is left for validation: add some that no other split has"
    )


def test_hub(download, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    write_csv("queries/train.csv", QUERIES)
    write_csv("queries/test.csv", [("oos 99", "oos")])
    download("hub", hub=str(tmp_path / "queries"), intent_column="intent", out_of_scope="oos")
    assert {split: len(tables.read(split)) for split in tables.SPLITS} == {
        "train": 27,
        "validation": 3,
        "test": 1,
    }
    assert tables.read_labels() == tables.Labels(["balance", "oos", "transfer"], "oos")


def in_the_c_locale():
    """The stage, as a process in the C locale."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG", "PYTHON"))}
    environment |= {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "stages.download"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("number", [1, "1"])
def test_numbers_are_labels_in_every_format(download, number):
    table = pd.DataFrame([(f"query {i}", i % 3) for i in range(30)], columns=["text", "intent"])
    table.to_csv("q.csv", index=False)
    table.to_json("q.jsonl", orient="records", lines=True)
    table.to_parquet("q.parquet")
    made = []
    for path in ("q.csv", "q.jsonl", "q.parquet"):
        download("files", path=path, out_of_scope=number)
        made.append(written())
    assert tables.read_labels() == tables.Labels(["0", "1", "2"], "1")
    assert made[0] == made[1] == made[2]


@pytest.mark.parametrize("kind", ["csv", "jsonl", "json", "clinc150"])
@pytest.mark.parametrize("text", ["café ☕ 😀", "yes \ud83d"], ids=["whole", "half"])
def test_any_locale(download, kind, text):
    """A process in the C locale reads what one in UTF-8 reads, and refuses what it refuses."""
    whole = text.isprintable()
    rows = [*QUERIES, (text, "oos")]
    changes = {"path": f"queries.{kind}"}
    if kind == "csv":
        lines = [f"{text},{intent}" for text, intent in rows]
        Path("queries.csv").write_bytes("\n".join(["text,intent", *lines]).encode(errors="surrogatepass"))
    elif kind == "jsonl":
        lines = [
            json.dumps({"text": text, "intent": intent}, ensure_ascii=not whole) for text, intent in rows
        ]
        Path("queries.jsonl").write_text("\n".join(lines), encoding="utf-8")
    else:
        content = {"train": rows, "val": [("x", "oos")], "test": [("y", "oos")]}
        Path("queries.json").write_text(json.dumps(content, ensure_ascii=not whole), encoding="utf-8")
    source = "files"
    if kind == "clinc150":
        source, changes = "clinc150", {"path": "known.json", "local": "queries.json"}
        checksum = clinc150.checksum(clinc150.read_json(Path("queries.json"))) if whole else ""
        known = {"sha256": checksum, "labels": ["transfer", "oos", "balance"], "domains": {"é": ["oos"]}}
        Path("known.json").write_text(json.dumps(known, ensure_ascii=False), encoding="utf-8")
    if whole:
        download(source, **changes)
        expected = written()
        Path("data/test.parquet").unlink()
    else:
        line = fails(download, source, **changes)
        assert "queries." in line and "byte" in line
    ended = in_the_c_locale()
    if whole:
        assert ended.returncode == 0, ended.stderr
        assert written() == expected
    else:
        assert (ended.returncode, ended.stderr) == (1, f"{line}\n")
