"""One folder in converters/formats is a format: the command line knows the rest from it.

The toy stands beside the real formats for the time of these tests, in a tree of links.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOY = ROOT / "tests" / "fakes" / "toy"
RECIPE = """
[checkpoints.tiny]
path = "tiny.pth"
[[targets]]
format = "toy"
shape = [64, 64]
flavour = "spiced"
"""


def link_all(source: Path, target: Path, *, but: str = "") -> None:
    target.mkdir(parents=True)
    for path in source.iterdir():
        if path.name not in (but, "__pycache__"):
            (target / path.name).symlink_to(path)


@pytest.fixture
def tree(tmp_path) -> Path:
    """A folder for PYTHONPATH, in which the package has a format more."""
    folder = tmp_path / "tree"
    package = folder / "scrfdconv"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    for name in ("cli", "recipes", "checks"):
        (package / name).symlink_to(ROOT / name)
    link_all(ROOT / "converters", package / "converters", but="formats")
    link_all(ROOT / "converters" / "formats", package / "converters" / "formats")
    shutil.copytree(TOY, package / "converters" / "formats" / "toy")
    return folder


@pytest.fixture
def toy(scrfdconv, tree, tiny_pth, tmp_path):
    """Run a command on a machine that knows the format; ``library`` is there unless said."""
    shutil.copy(tiny_pth, tmp_path / "tiny.pth")

    def run(*arguments, library=True):
        (tree / "toylibrary.py").unlink(missing_ok=True)
        if library:
            (tree / "toylibrary.py").touch()
        return scrfdconv(*arguments, PYTHONPATH=str(tree))

    return run


def test_help_lists_the_verb_and_its_options(toy):
    listed, own = toy("--help"), toy("toy", "--help")

    assert "Make a toy of two files and verify it." in listed.out
    for option in ("--flavour", "plain|spiced", "--shape", "--opset", "--precision", "--io"):
        assert option in own.out


def test_the_verb_makes_both_files_and_every_other_verb_opens_them(toy, tmp_path, widerface):
    made = toy("toy", "tiny.pth", "--shape", "64", "64", "--flavour", "spiced", "--json")

    assert made.code == 0, made.err
    files = [tmp_path / "tiny_shape64x64.toy", tmp_path / "tiny_shape64x64.weights"]
    assert [Path(name).name for name in made.json["files"]] == [path.name for path in files]
    assert all(path.is_file() for path in files)
    assert json.loads(files[0].read_text())["toy"] == "spiced"
    assert any(result["check"] == "toy" for result in made.json["report"]["results"])

    verified = toy("verify", files[0], "--reference", "tiny.pth", "--json")
    assert verified.code == 0, verified.err
    assert (verified.json["kind"], verified.json["sha256"]) == ("toy", made.json["sha256"])

    picture = next(widerface.rglob("*.jpg"))
    assert toy("detect", files[0], picture, "--json").code == 0

    said = toy("inspect", files[0], "--json").json
    assert (said["kind"], said["files"]) == ("toy", [path.name for path in files])
    assert said["takes"] == [1, 3, 64, 64]

    timed = toy("bench", "tiny.pth", files[0], "--runs", "1", "--shape", "64", "64", "--json")
    assert timed.code == 0, timed.err
    assert timed.json["models"][1]["format"] == "toy"


@pytest.mark.slow
def test_precision_and_its_options_come_from_the_declaration(toy):
    options = ("--precision", "fp16", "--keep-float", "Sigmoid", "--shape", "64", "64")
    made = toy("toy", "tiny.pth", *options, "--json")
    refused = toy("toy", "tiny.pth", "--all-fp16")
    unknown = toy("toy", "tiny.pth", "--precision", "int8")

    assert (made.code, made.json["precision"]) == (0, "fp16")
    assert refused.code == unknown.code == 2
    assert "--all-fp16 is for --precision fp16" in refused.sentence


def test_what_is_missing_is_said_with_the_remedy(toy, tmp_path):
    made = toy("toy", "tiny.pth", library=False)
    rows = toy("doctor", "--json", library=False).json["formats"]

    assert made.code == 4
    assert "pip install 'scrfdconv[toy]'" in made.sentence
    assert [row["state"] for row in rows if row["format"] == "toy"] == ["blocked"] * 2
    assert not list(tmp_path.glob("*.toy"))


@pytest.mark.slow
def test_files_that_belong_to_another_are_left_alone(toy, tmp_path):
    main, weights = tmp_path / "m.toy", tmp_path / "m.weights"
    assert toy("toy", "tiny.pth", "--shape", "64", "64", "-o", main).code == 0

    given = toy("inspect", weights.rename(tmp_path / "n.weights"))
    lost = toy("verify", main, "--reference", "tiny.pth")
    over = toy("toy", "tiny.pth", "-o", tmp_path / "tiny.weights")

    assert given.code == 0  # an ONNX file of its own, by its content
    assert (lost.code, "is another model's" in lost.sentence) == (3, True)
    assert (over.code, "name the main file" in over.sentence) == (2, True)


def test_a_recipe_builds_remembers_and_repairs_both_files(toy, tmp_path):
    (tmp_path / "r.toml").write_text(RECIPE)
    out = tmp_path / "out"
    name = "tiny/toy/tiny_shape64x64_spiced.toy"

    first = toy("build", "r.toml", "-o", out, "--jobs", "1", "--json")
    again = toy("build", "r.toml", "-o", out, "--json")
    (entry,) = json.loads((out / "manifest.json").read_text())["artifacts"]
    weights = (out / name).with_suffix(".weights")
    before = weights.read_bytes()
    weights.write_bytes(before[:-1] + b"x")
    checked = toy("verify", out / "manifest.json")
    repaired = toy("build", "r.toml", "-o", out, "--jobs", "1", "--json")

    assert first.code == 0, first.err
    assert first.json["outcomes"][0]["state"] == "built"
    assert again.json["outcomes"][0]["state"] == "cached"
    assert [file["path"] for file in entry["files"]] == [name, name.replace(".toy", ".weights")]
    assert entry["options"]["flavour"] == "spiced"
    assert checked.code == 1
    assert repaired.json["outcomes"][0]["state"] == "built"
    assert weights.read_bytes() == before


def test_a_recipe_knows_the_keys_and_says_so(toy, tmp_path):
    (tmp_path / "r.toml").write_text(RECIPE.replace("spiced", "sweet"))
    wrong = toy("build", "r.toml")
    (tmp_path / "r.toml").write_text(RECIPE.replace("flavour", "flavor"))
    unknown = toy("build", "r.toml")
    written = toy("build", "--init", "tiny.pth", "-o", "new.toml")

    assert wrong.code == unknown.code == 3
    assert "flavour" in wrong.sentence
    assert "plain or spiced" in wrong.sentence
    assert "known here are" in unknown.sentence
    assert "flavour" in unknown.sentence
    assert written.code == 0
    text = (tmp_path / "new.toml").read_text()
    assert 'format = "toy"' in text
    assert "How the toy tastes." in text
