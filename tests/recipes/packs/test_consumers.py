"""The consumers themselves: packages that cannot stand beside ours, each with its environment."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from environments import environment_with

from scrfdconv.checks.faces.compare import model_input
from scrfdconv.checks.faces.images import read_image
from scrfdconv.cli import app
from scrfdconv.converters.normalization import STANDARD
from scrfdconv.recipes import DetectOptions, Detector, open_runner, open_source

pytestmark = pytest.mark.slow

RELEASED = ("scrfd_500m_bnkps_shape640x640.onnx", "det_500m.onnx")  # rows with a batch, and without
# Two ways to prepare a picture: boxes of the same face differ by less, in pixels of the picture.
SAME_FACE = 0.5
INSIGHTFACE = """
import json, sys
import cv2
from insightface.app import FaceAnalysis

root, picture = sys.argv[1:]
found = {}
for name in ("batched", "flat"):
    app = FaceAnalysis(name=name, root=root, allowed_modules=["detection"])
    app.prepare(ctx_id=-1, det_size=(640, 640))
    faces = app.get(cv2.imread(picture))
    found[name] = [[*map(float, face.bbox), float(face.det_score)] for face in faces]
    assert app.model_package is not None, "the manifest was not read"
print(json.dumps(found))
"""
# Version 0.7.3 comes as source with parts in C++ that detection does not use. Its packages without
# their __init__ are all that is left out: those import the other parts, and albumentations.
INSIGHTFACE_073 = """
import json, sys, types
from pathlib import Path
import cv2

code, root, picture = sys.argv[1:]
for name in ("insightface", "insightface.app"):
    sys.modules[name] = module = types.ModuleType(name)
    module.__path__ = [str(Path(code, *name.split(".")))]
from insightface.app.face_analysis import FaceAnalysis
from insightface.model_zoo.scrfd import SCRFD

def rows(boxes, points):
    return [[*map(float, box), *map(float, p.ravel())] for box, p in zip(boxes, points)]

image = cv2.imread(picture)
found = {}
for name in ("flat", "batched"):
    on = {"allowed_modules": ["detection"], "providers": ["CPUExecutionProvider"]}
    app = FaceAnalysis(name, root, **on)
    app.prepare(ctx_id=-1, det_size=(640, 640))
    try:
        faces = app.get(image)
        found[name] = rows([[*f.bbox, f.det_score] for f in faces], [f.kps for f in faces])
    except Exception as error:
        found[name] = type(error).__name__
detector = SCRFD(str(Path(root, "models", "flat", "flat.onnx")))
detector.prepare(-1, input_size=(640, 640), det_thresh=0.5)
found["class"] = rows(*detector.detect(image))
print(json.dumps(found))
"""
PARSE = """
import sys
from pathlib import Path
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

for path in Path(sys.argv[1]).glob("*/config.pbtxt"):
    config = text_format.Parse(path.read_text(), pb.ModelConfig())
    assert config.name == path.parent.name
    assert (config.max_batch_size > 0) == config.HasField("dynamic_batching")
    assert config.input[0].name == "input.1" and config.input[0].data_type == pb.TYPE_FP32
    print(config.name, config.max_batch_size, len(config.output), len(config.model_warmup))
"""
ASK = """
import sys, time
import numpy as np
import tritonclient.grpc as triton

address, pixels, answer = sys.argv[1:]
client = triton.InferenceServerClient(address)
for _ in range(300):
    try:
        if client.is_model_ready("faces"):
            break
    except triton.InferenceServerException:
        pass
    time.sleep(0.1)
image = np.load(pixels)
asked = triton.InferInput("input.1", list(image.shape), "FP32")
asked.set_data_from_numpy(image)
found = client.infer("faces", [asked])
np.savez(answer, **{name: found.as_numpy(name) for name in ("boxes", "scores", "count")})
"""
# The package has no backend for ONNX Runtime: this model of its Python backend stands in for one.
STAND_IN = """
import sys
sys.path[:0] = {paths}
from pathlib import Path
import numpy as np
import onnxruntime
import triton_python_backend_utils as backend


class TritonPythonModel:
    def initialize(self, arguments):
        path = Path(arguments["model_repository"], arguments["model_version"], "model.onnx")
        self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def execute(self, requests):
        names = [output.name for output in self.session.get_outputs()]
        return [self.answer(names, request) for request in requests]

    def answer(self, names, request):
        # DLPack: as_numpy and Tensor() of this version read arrays of NumPy 2 as empty ones.
        image = np.from_dlpack(backend.get_input_tensor_by_name(request, "input.1"))
        values = self.session.run(names, {{"input.1": np.array(image)}})
        return backend.InferenceResponse(
            [backend.Tensor.from_dlpack(n, v) for n, v in zip(names, values)]
        )
"""


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        app(list(map(str, arguments)))
    assert ended.value.code == 0


def faces_by(model: Path, picture: Path):
    """What our own decoder finds."""
    detector = Detector(open_runner(open_source(str(model))), DetectOptions())
    (faces,) = detector.detect([read_image(picture)])
    return faces


def asked(python: Path, script: str, *arguments: object) -> str:
    done = subprocess.run(
        [python, "-c", script, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def picture(data):
    return data / "images/test/insightface_t1.jpg"


def test_insightface_finds_the_faces_that_we_find(data, picture, tmp_path):
    beside = ("scikit-image", "lazy_loader", "imageio", "tifffile")
    python = environment_with(tmp_path / "env", "--no-deps", "insightface==2.1", *beside)
    for name, file in zip(("batched", "flat"), RELEASED, strict=True):
        model = data / "onnx" / file
        run("pack", "insightface", model, "-o", tmp_path / "root", "--name", name)

    found = json.loads(asked(python, INSIGHTFACE, tmp_path / "root", picture).splitlines()[-1])

    for name, file in zip(("batched", "flat"), RELEASED, strict=True):
        ours = faces_by(data / "onnx" / file, picture)
        theirs = np.array(found[name])
        assert len(ours) == len(theirs) == 6
        np.testing.assert_allclose(theirs[:, :4], ours.boxes, atol=SAME_FACE)


@pytest.fixture
def insightface_073(tmp_path):
    """An environment for the classes of insightface 0.7.3, and the folder of its source."""
    needed = ("scikit-image", "lazy_loader", "imageio", "tifffile", "requests", "tqdm", "cython")
    python = environment_with(tmp_path / "env", "setuptools", "wheel", *needed)
    pip = [python, "-m", "pip", "download", "-q", "--no-deps", "--no-build-isolation"]
    only = ["--no-binary", "insightface", "insightface==0.7.3", "-d", tmp_path]
    done = subprocess.run([*pip, *only], check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"insightface 0.7.3 cannot be fetched: {done.stderr.strip()[-200:]}")
    shutil.unpack_archive(tmp_path / "insightface-0.7.3.tar.gz", tmp_path, filter="data")
    return python, tmp_path / "insightface-0.7.3"


def test_the_classes_of_insightface_073_find_the_faces_that_we_find(
    insightface_073, data, picture, tmp_path
):
    python, code = insightface_073
    source = data / "onnx" / RELEASED[1]
    run("onnx", source, "--outputs", "flat", "-o", tmp_path / "flat.onnx")
    run("onnx", source, "-o", tmp_path / "batched.onnx")
    root = tmp_path / "root"
    run("pack", "insightface", tmp_path / "flat.onnx", "--versions", "0.7.3", "-o", root)
    run("pack", "insightface", tmp_path / "batched.onnx", "-o", root)

    found = json.loads(asked(python, INSIGHTFACE_073, code, root, picture).splitlines()[-1])

    ours = faces_by(source, picture)
    assert len(ours) == 6
    for way in ("flat", "class"):
        theirs = np.array(found[way])
        np.testing.assert_allclose(theirs[:, :4], ours.boxes, atol=SAME_FACE)
        np.testing.assert_allclose(theirs[:, 5:], ours.keypoints.reshape(6, -1), atol=SAME_FACE)
    # Why --versions 0.7.3 refuses outputs with a batch axis.
    assert len(found["batched"]) != len(ours) or isinstance(found["batched"], str)


@pytest.fixture(scope="module")
def triton_python(tmp_path_factory):
    """An environment with a real server and its client."""
    needed = ("nvidia-pytriton==0.7.0", "tritonclient==2.73.0", "grpcio", "protobuf<7")
    folder = tmp_path_factory.mktemp("triton") / "env"
    return environment_with(folder, "--no-deps", "python-rapidjson", "packaging", *needed)


@pytest.fixture(scope="module")
def repository(data, tmp_path_factory):
    """Models of every kind of outputs and batch."""
    folder = tmp_path_factory.mktemp("repository")
    source = data / "onnx" / RELEASED[1]
    for name, options in (("faces", ["--outputs", "faces"]), ("raw", [])):
        model = folder / f"{name}.onnx"
        run("onnx", source, "--no-verify", *options, "-o", model)
        run("pack", "triton", model, "--warm-up", "-o", folder / "models")
    run("pack", "triton", data / "onnx" / RELEASED[0], "-o", folder / "models", "--name", "fixed")
    return folder / "models"


def test_the_clients_own_configuration_reads_ours(triton_python, repository):
    read = asked(triton_python, PARSE, repository).splitlines()

    assert sorted(read) == ["faces 8 5 1", "fixed 0 9 0", "raw 8 9 1"]


def test_a_server_finds_the_faces_that_we_find(triton_python, repository, data, picture, tmp_path):
    """The whole way: config.pbtxt, warm-up, dynamic batching, the reshaped count."""
    served = tmp_path / "served"
    shutil.copytree(repository / "faces", served / "faces")
    config = served / "faces/config.pbtxt"
    lines = config.read_text().splitlines()
    kept = [line for line in lines if not line.startswith(("backend", "platform"))]
    config.write_text("\n".join(['backend: "python"', *kept]) + "\n")
    paths = [path for path in sys.path if path.endswith("site-packages")]
    (served / "faces/1/model.py").write_text(STAND_IN.format(paths=paths))
    pixels = model_input(picture, (640, 640), STANDARD)
    np.save(tmp_path / "pixels.npy", np.stack([pixels, pixels]))

    with server(triton_python, served, tmp_path) as address:
        asked(triton_python, ASK, address, tmp_path / "pixels.npy", tmp_path / "answer.npz")

    answer = np.load(tmp_path / "answer.npz")
    ours = faces_by(data / "onnx" / RELEASED[1], picture)
    height, width = read_image(picture).shape[:2]
    scale = int(640 * height / width) / height
    assert answer["count"].tolist() == [[6], [6]]
    for boxes, scores in zip(answer["boxes"], answer["scores"], strict=True):
        np.testing.assert_allclose(boxes[:6] / scale, ours.boxes, atol=SAME_FACE)
        np.testing.assert_allclose(scores[:6], ours.scores, atol=1e-3)


@contextmanager
def server(python: Path, models: Path, folder: Path):
    """The address of a running server; its log is shown where the server does not start."""
    (packages,) = python.parents[1].glob("lib/python*/site-packages")
    tree = folder / "server"
    shutil.copytree(packages / "pytriton/tritonserver", tree)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = tree / f"python_backend_stubs/{version}/triton_python_backend_stub"
    for program in (tree / "bin/tritonserver", stub):
        program.chmod(0o755)
    shutil.copy(stub, tree / "backends/python")
    ports = [_free_port() for _ in range(3)]
    names = ("http", "grpc", "metrics")
    options = [f"--{name}-port={port}" for name, port in zip(names, ports, strict=True)]
    command = [tree / "bin/tritonserver", f"--model-repository={models}", *options]
    libraries = f"{packages / 'nvidia_pytriton.libs'}:{sys.base_prefix}/lib"
    log = folder / "server.log"
    with (
        log.open("w") as file,
        subprocess.Popen(
            [*command, f"--backend-directory={tree / 'backends'}"],
            env={**os.environ, "LD_LIBRARY_PATH": libraries}, stdout=file, stderr=file,
        ) as process,
    ):  # fmt: skip
        try:
            yield f"localhost:{ports[1]}"
            assert process.poll() is None, log.read_text()
        finally:
            process.terminate()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]
