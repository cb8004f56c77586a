"""The product, not only the code: what is in the wheel, what --help costs, what the README says."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from scrfdconv.checks.faces.decode import decode

LONGEST = 60  # lines
ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("cli", "recipes", "checks", "converters")
HEAVY = ("torch", "onnx", "onnxruntime", "onnxsim", "cv2", "scipy", "numpy", "tensorrt")


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def python_packages() -> list[str]:
    found = (p.parent for folder in FOLDERS for p in (ROOT / folder).rglob("__init__.py"))
    return sorted("scrfdconv." + ".".join(path.relative_to(ROOT).parts) for path in found)


def linked(folder: Path) -> Path:
    """``folder/scrfdconv`` with the source folders under it, for tools that know no mapping."""
    package = folder / "scrfdconv"
    package.mkdir()
    for name in FOLDERS:
        (package / name).symlink_to(ROOT / name)
    return folder


def left_out(*patterns: str) -> Callable[[str, list[str]], set[str]]:
    """What a copy of the tree leaves out: ``build`` at its root only, recipes/build is ours."""
    everywhere = shutil.ignore_patterns("*.egg-info", ".git", ".ci", ".venv*", *patterns)
    return lambda folder, names: {
        *everywhere(folder, names),
        *(["build"] if Path(folder) == ROOT else []),
    }


def test_the_listed_packages_are_those_on_disk():
    assert sorted(project()["tool"]["setuptools"]["packages"]) == python_packages()


def test_every_folder_of_python_files_is_a_package():
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            assert (path.parent / "__init__.py").exists(), path


def test_the_wheel_holds_every_module_and_nothing_else(tmp_path):
    source = tmp_path / "source"  # a copy: a build folder must not be left in the tree
    shutil.copytree(ROOT, source, ignore=left_out("__pycache__", ".*_cache", "tests"))
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "-w", tmp_path, source], check=True)
    (wheel,) = tmp_path.glob("*.whl")

    names = {n for n in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in n}

    modules = {
        f"scrfdconv/{p.relative_to(ROOT)}" for f in FOLDERS for p in (ROOT / f).rglob("*.py")
    }
    data = {
        f"scrfdconv/{p.relative_to(ROOT)}"
        for folder in FOLDERS
        for pattern in ("*.toml", "*.html", "*.css", "*.schema.json")
        for p in (ROOT / folder).rglob(pattern)
    }
    assert "scrfdconv/checks/reports/page.html" in data
    assert names == modules | data | {f"scrfdconv/{folder}/py.typed" for folder in FOLDERS}


def test_help_loads_no_heavy_library():
    code = (
        "import sys\n"
        "from scrfdconv.cli import app\n"
        "try:\n    app(['--help'])\n"
        "except SystemExit:\n    pass\n"
        f"loaded = [m for m in {HEAVY!r} if m in sys.modules]\n"
        "sys.exit(f'loaded: {loaded}' if loaded else 0)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert ran.returncode == 0, ran.stderr


def test_nothing_imports_upwards(tmp_path):
    (linked(tmp_path) / "scrfdconv" / "__init__.py").touch()
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]

    ran = subprocess.run(
        [*command, "--config", ROOT / "pyproject.toml"], cwd=tmp_path, env=environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip

    assert ran.returncode == 0, ran.stdout
    assert "2 kept, 0 broken" in ran.stdout


def test_no_function_is_longer_than_a_screen():
    long = [
        f"{path.relative_to(ROOT)}: {node.name}"
        for folder in ("cli", "recipes", "checks", "converters")
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= LONGEST
    ]

    assert not long


def test_constraints_pin_every_dependency():
    pins = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    )  # fmt: skip
    names = [re.match(r"[\w-]+", d)[0] for d in project()["project"]["dependencies"]]

    assert set(names) <= pins.keys()


def readme_commands() -> list[str]:
    return commands_in(ROOT / "README.md")


def commands_in(page: Path) -> list[str]:
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def test_the_two_set_up_commands_stand_in_the_readme():
    commands = readme_commands()

    assert "pip install -c constraints.txt . && scrfdconv onnx --shape 640 640" in commands
    assert "pip install -c constraints.txt -e '.[dev]' && pytest" in commands


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_set_up_commands_work_in_a_fresh_environment(tmp_path):
    """As a new user types them; pytest itself runs one test there, or it would run this one."""
    source, environment = tmp_path / "source", tmp_path / "venv"
    shutil.copytree(ROOT, source, ignore=left_out("*_cache"))
    venv.create(environment, with_pip=True)
    variables = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))},
        "PATH": f"{environment / 'bin'}:{os.environ['PATH']}",
        "PYTEST_ADDOPTS": "-k test_the_listed_packages_are_those_on_disk",
        "PIP_NO_COMPILE": "1",  # half a minute for modules that nothing here imports
    }

    for command in readme_commands():
        if command.startswith("pip install -c"):
            ran = subprocess.run(
                ["bash", "-ec", command], cwd=source, env=variables, capture_output=True,
                text=True, check=False,
            )  # fmt: skip
            assert ran.returncode == 0, ran.stdout + ran.stderr
            last = ran.stdout.strip().rpartition("\n")[2]
            assert "_shape640x640.onnx" in last or " passed" in last


def interface_python(start: str) -> str:
    page = (ROOT / "docs" / "interface.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    return next(block for block in blocks if block.startswith(start))


@pytest.mark.parametrize(
    ("strides", "anchors", "classes"),
    [((8, 16, 32), 2, 1), ((8, 16, 32, 64), 1, 1), ((16, 32), 3, 2)],
)
def test_the_decoder_of_the_interface_page_is_the_decoder(strides, anchors, classes):
    rng = np.random.default_rng(0)
    height, width = 192, 256
    outputs = {}
    for stride in strides:
        rows = anchors * (height // stride) * (width // stride)
        outputs[f"score_{stride}"] = rng.random((1, rows, classes)).astype(np.float32) ** 2
        outputs[f"bbox_{stride}"] = rng.uniform(0.2, 4, (1, rows, 4)).astype(np.float32)
    namespace: dict = {}
    exec(interface_python("import numpy"), namespace)
    (faces,) = decode(outputs, (height, width))

    for label in range(classes):
        found = namespace["decode"](outputs, height, width, label)

        wanted = faces if faces.labels is None else faces.take(faces.labels == label)
        assert len(wanted) > 10
        np.testing.assert_allclose(found[:, :4], wanted.boxes, atol=1e-3)
        np.testing.assert_allclose(found[:, 4], wanted.scores)


def test_a_picture_is_prepared_as_the_interface_page_says():
    from scrfdconv.checks.faces.images import normalise
    from scrfdconv.converters.input_form import PLAIN, InputForm
    from scrfdconv.converters.network.preprocessing import metadata_of_pictures
    from scrfdconv.converters.normalization import STANDARD, Normalization

    canvas = np.random.default_rng(0).integers(0, 256, (32, 64, 3), np.uint8)
    namespace: dict = {}
    exec(interface_python("import json"), namespace)

    frame = InputForm("uint8", "nhwc", Normalization((0, 0, 0), (1, 1, 1), "bgr"))
    for wanted, form in (
        (STANDARD, PLAIN),
        (Normalization((1, 2, 3), (4, 5, 6), "bgr"), PLAIN),
        (STANDARD, frame),
    ):
        said = {f"scrfdconv.{k}": v for k, v in metadata_of_pictures(wanted, form).items()}
        found = namespace["network_input"](canvas, said)
        expected = form.fed(normalise(canvas, wanted), wanted)
        assert found.dtype == expected.dtype
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_every_example_of_the_api_page_runs(tiny_pth, tmp_path, monkeypatch, capsys, widerface):
    shutil.copy(tiny_pth, tmp_path / "model.pth")
    shutil.copy(next(widerface.rglob("*.jpg")), tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "api.md").read_text()
    examples = re.findall(r"```python\n(.*?)```", page, re.DOTALL)

    for example in examples:
        exec(example, {})

    assert len(examples) == 6
    assert "checks passed" in capsys.readouterr().out


def test_public_names_are_there_and_cost_nothing():
    code = (
        "import sys\n"
        "import scrfdconv.recipes as recipes, scrfdconv.checks as checks\n"
        "import scrfdconv.converters as converters\n"
        f"assert not [m for m in {HEAVY!r} if m in sys.modules]\n"
        "assert recipes.__version__\n"
        "for package in (recipes, checks, converters):\n"
        "    for name in package.__all__:\n"
        "        assert callable(getattr(package, name)) or name.isupper(), name\n"
    )

    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert ran.returncode == 0, ran.stderr


@pytest.mark.slow
def test_every_command_line_in_the_readme_and_docs_runs(tmp_path, tiny_pth):
    """On a small seeded checkpoint under the name that the README uses."""
    import torch

    from scrfdconv.converters.checkpoint.loading import load_source

    weights = load_source("scrfd_500m_kps").weights
    torch.save({"state_dict": dict(weights)}, tmp_path / "model.pth")
    docs = sorted((ROOT / "docs").glob("*.md"))
    # Tests of `lift` run the commands of its page, on the file that the page is about.
    pages = (ROOT / "README.md", *(page for page in docs if page.stem != "lift"))
    commands = [c for page in pages for c in commands_in(page) if c.startswith("scrfdconv")]
    variables = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    for command in commands:
        if "photos" in command or "widerface" in command:
            continue  # needs photographs; tests of those verbs run them
        ran = subprocess.run(
            ["bash", "-ec", command], cwd=tmp_path, env=variables, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert ran.returncode == 0, (command, ran.stderr)
    assert commands
