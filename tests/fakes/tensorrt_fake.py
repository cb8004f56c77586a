"""What the strict fake of tensorrt does: engines that are run by ONNX Runtime on the CPU.

A fake engine is its ONNX with a header. Addresses are real memory of this process, so that the
code under test moves real numbers and is verified for real.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import json
import struct
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np

_spec = importlib.util.spec_from_file_location(
    "tensorrt_strict", Path(__file__).with_name("tensorrt_strict.py")
)
strict = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(strict)
VERSIONS = strict.VERSIONS
TYPED_CHOICES = 11  # from here on, every network is strongly typed
MAGIC, CACHE_MAGIC = b"ftrt", b"FAKECACHE"


@dataclass
class World:
    """The machine, and what goes wrong on it."""

    version: str
    gpu: str = "Fake RTX"
    capability: tuple = (8, 6)
    free: int = 8 << 30
    dla_cores: int = 0
    parser_faults: list = field(default_factory=list)  # (operator, node name, text)
    refuses: str = ""  # build_serialized_network logs this and returns None
    builds_fp32: bool = False  # whatever the ONNX says
    run_error: str = ""  # logged by each run, which succeeds all the same
    zeros: bool = False  # runs fast and writes zeros
    bad_slot: int | None = None  # this slot of a batch gets the outputs of slot 0
    reverse_io: bool = False  # outputs in another order than in the ONNX
    during_build: object = None  # called at every step
    steps: list = field(default_factory=list)
    built: list = field(default_factory=list)  # what each build was asked for
    severities: dict = field(default_factory=dict)
    logger: object = None  # the first one wins, as in TensorRT
    inside: bool = False
    trt: object = None

    @property
    def major(self):
        return int(self.version.partition(".")[0])

    def make(self, name, **state):
        self.inside = True
        try:
            made = self.trt._classes[name]()
        finally:
            self.inside = False
        for key, value in state.items():
            object.__setattr__(made, f"_{key}", value)
        return made

    def error(self, text):
        self.logger.log(self.severities["ERROR"], text)

    def use_logger(self, logger):
        if self.logger is None:
            self.logger = logger
        elif self.logger is not logger:
            self.error("The logger passed in differs from one already registered.")


def fake_tensorrt(version, **machine):
    """A fake module and its world."""
    world = World(version, **machine)
    world.trt = strict.module(version, BEHAVIOURS, world)
    return world.trt, world


# ---------------------------------------------------------------- building


class Builder:
    def create(self, logger):
        self._world.use_logger(logger)

    def create_network(self, flags=0):
        return self._world.make("INetworkDefinition", flags_given=flags, model=None)

    def create_builder_config(self):
        tf32 = {self._world.trt.BuilderFlag.TF32.value}  # on by default
        return self._world.make("IBuilderConfig", flags_set=tf32, profiles=[], cache=None, pools={})

    def create_optimization_profile(self):
        return self._world.make("IOptimizationProfile", shapes={})

    def get_num_DLA_cores(self):  # noqa: N802 - TensorRT's name
        return self._world.dla_cores

    def build_serialized_network(self, network, config):
        return _build(self._world, network, config)


def _build(world, network, config):
    trt, model = world.trt, network._model
    image = model.graph.input[0]
    dims = [dim.dim_value or -1 for dim in image.type.tensor_type.shape.dim]
    if -1 in dims and not config._profiles:
        world.error("Network has dynamic or shape inputs, but no optimization profile is defined.")
        return None
    if world.refuses:
        world.error(world.refuses)
        return None
    if not _steps(world, config._values.get("progress_monitor")):
        return None
    typed_bit = 1 << trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED.value
    typed = world.major >= TYPED_CHOICES or network._flags_given & typed_bit
    data = model.SerializeToString()
    if config._cache is not None:
        config._cache._keys.add(hashlib.sha256(data).hexdigest()[:8])
    asked = {
        "typed": bool(typed), "flags": sorted(config._flags_set), "profiles": config._profiles,
        "values": {k: v for k, v in config._values.items() if k != "progress_monitor"},
        "pools": {str(k): v for k, v in config._pools.items()},
    }  # fmt: skip
    world.built.append(asked)
    compatible = trt.BuilderFlag.VERSION_COMPATIBLE.value in config._flags_set
    verbosity = config._values.get("profiling_verbosity", trt.ProfilingVerbosity.LAYER_NAMES_ONLY)
    header = {
        "version": world.version, "profiles": config._profiles, "dims": dims,
        "fp32": not typed or world.builds_fp32, "compatible": compatible,
        "verbosity": verbosity.name,
    }  # fmt: skip
    text = json.dumps(header).encode()
    plan = MAGIC + struct.pack("<I", len(text)) + text + data
    return world.make("IHostMemory", data=plan)


def _steps(world, monitor, phases=(("Building", None, 3), ("Timing", "Building", 2))):
    for name, parent, count in phases:
        if monitor is None:
            return True
        monitor.phase_start(name, parent, count)
        try:
            for step in range(count):
                if world.during_build:
                    world.during_build()
                world.steps.append((name, step))
                if not monitor.step_complete(name, step):
                    return False
        finally:
            monitor.phase_finish(name)
    return True


class Config:
    def set_flag(self, flag):
        self._flags_set.add(flag.value)

    def clear_flag(self, flag):
        self._flags_set.discard(flag.value)

    def get_flag(self, flag):
        return flag.value in self._flags_set

    def set_memory_pool_limit(self, pool, pool_size):
        self._pools[pool.name] = pool_size

    def add_optimization_profile(self, profile):
        (shapes,) = profile._shapes.items()
        self._profiles.append([list(map(list, shapes[1])), shapes[0]])
        return len(self._profiles) - 1

    def create_timing_cache(self, serialized_timing_cache):
        return _cache(self._world, bytes(serialized_timing_cache))

    def set_timing_cache(self, cache, ignore_mismatch):
        if not ignore_mismatch and cache._owner != _owner(self._world):
            self._world.error("The timing cache is of another device.")
            return False
        object.__setattr__(self, "_cache", cache)
        return True

    def get_timing_cache(self):
        return self._cache


def _owner(world):
    return f"{world.gpu} {world.version}"


def _cache(world, data):
    if not data:
        return world.make("ITimingCache", owner=_owner(world), keys=set())
    if not data.startswith(CACHE_MAGIC):
        world.error("The timing cache cannot be read.")
        return None
    content = json.loads(data[len(CACHE_MAGIC) :])
    return world.make("ITimingCache", owner=content["owner"], keys=set(content["keys"]))


class TimingCache:
    def combine(self, input_cache, ignore_mismatch):
        if input_cache._owner != self._owner and not ignore_mismatch:
            return False
        self._keys.update(input_cache._keys)
        return True

    def serialize(self):
        text = json.dumps({"owner": self._owner, "keys": sorted(self._keys)}).encode()
        return self._world.make("IHostMemory", data=CACHE_MAGIC + text)


class Profile:
    def set_shape(self, input, low, best, high):
        self._shapes[input] = (tuple(low), tuple(best), tuple(high))


class HostMemory:
    def __bytes__(self):
        return self._data

    def get_nbytes(self):
        return len(self._data)


class Parser:
    def create(self, network, logger):
        self._world.use_logger(logger)
        self._network, self._faults = network, []

    def set_flag(self, flag):
        assert flag.name == "NATIVE_INSTANCENORM"

    def parse(self, model, path=None):
        import onnx

        self._faults = list(self._world.parser_faults)
        if self._faults:
            return False
        object.__setattr__(self._network, "_model", onnx.load_from_string(bytes(model)))
        return True

    def get_num_errors(self):
        return len(self._faults)

    def get_error(self, index):
        return self._world.make("ParserError", fault=self._faults[index], index=index)


class ParserError:
    def node(self):
        return self._index

    def node_name(self):
        return self._fault[1]

    def node_operator(self):
        return self._fault[0]

    def desc(self):
        return self._fault[2]


# ---------------------------------------------------------------- running


class Runtime:
    def create(self, logger):
        self._world.use_logger(logger)
        self._values["engine_host_code_allowed"] = False

    def deserialize_cuda_engine(self, data):
        import onnx

        world = self._world
        if not bytes(data).startswith(MAGIC):
            world.error("Error Code 1: Serialization assertion magicTagRead == kMAGIC_TAG failed.")
            return None
        (length,) = struct.unpack("<I", data[4:8])
        try:
            header = json.loads(data[8 : 8 + length])
        except ValueError:
            world.error("Error Code 1: the plan is truncated.")
            return None
        compatible = header["compatible"] and self._values["engine_host_code_allowed"]
        if header["version"] != world.version and not compatible:
            world.error("The engine plan file is not compatible with this version of TensorRT.")
            return None
        model = onnx.load_from_string(bytes(data[8 + length :]))
        return world.make("ICudaEngine", header=header, model=model, session=None)


class Engine:
    def _io(self):
        outputs = list(self._model.graph.output)
        return [self._model.graph.input[0], *(outputs[::-1] if self._world.reverse_io else outputs)]

    def get_num_io_tensors(self):
        return len(Engine._io(self))

    def get_num_optimization_profiles(self):
        return max(1, len(self._header["profiles"]))

    def get_tensor_name(self, index):
        return Engine._io(self)[index].name

    def get_tensor_mode(self, name):
        modes = self._world.trt.TensorIOMode
        return modes.INPUT if name == self._model.graph.input[0].name else modes.OUTPUT

    def get_tensor_shape(self, name):
        if name == self._model.graph.input[0].name:
            return tuple(self._header["dims"])
        return (-1, -1, -1)

    def get_tensor_dtype(self, name):
        (value,) = (v for v in Engine._io(self) if v.name == name)
        kinds = self._world.trt.DataType
        return {1: kinds.FLOAT, 10: kinds.HALF}[value.type.tensor_type.elem_type]

    def get_tensor_profile_shape(self, name, profile_index):
        shapes, owner = self._header["profiles"][profile_index]
        assert owner == name
        return [tuple(shape) for shape in shapes]

    def create_execution_context(self, strategy=None):
        return self._world.make(
            "IExecutionContext", owner=self, profile=0, shape=None, addresses={}, results=None
        )

    def create_engine_inspector(self):
        return self._world.make("EngineInspector", owner=self)


class Context:
    def set_optimization_profile_async(self, profile_index, stream_handle):
        object.__setattr__(self, "_profile", profile_index)
        object.__setattr__(self, "_shape", None)
        return profile_index < max(1, len(self._owner._header["profiles"]))

    def set_input_shape(self, name, shape):
        header = self._owner._header
        if header["profiles"]:
            low, _, high = header["profiles"][self._profile][0]
            fits = all(a <= b <= c for a, b, c in zip(low, shape, high, strict=True))
        else:
            fits = tuple(shape) == tuple(header["dims"])
        if not fits:
            self._world.error(f"Static dimension mismatch while setting input shape for {name}.")
            return False
        object.__setattr__(self, "_shape", tuple(shape))
        return True

    def infer_shapes(self):
        return [] if self._shape else [self._owner._model.graph.input[0].name]

    def get_tensor_shape(self, name):
        if self._shape is None:
            return (-1, -1, -1)
        stride = {"8": 8, "16": 16, "32": 32}[name.rpartition("_")[2]] if "_" in name else None
        if stride is None:
            value = next(v for v in self._owner._model.graph.output if v.name == name)
            return _numeric_shape(value, self._shape)
        batch, _, height, width = self._shape
        widths = {"score": 1, "bbox": 4, "kps": 10}
        rows = 2 * (height // stride) * (width // stride)
        return (batch, rows, widths[name.partition("_")[0]])

    def set_tensor_address(self, name, memory):
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle):
        world, model = self._world, self._owner._model
        if world.run_error:
            world.error(world.run_error)
        image = model.graph.input[0].name
        given = _read(self._addresses[image], self._shape)
        results = _session(self._owner).run(None, {image: given})
        for name, result in zip(_names(model), results, strict=True):
            value = np.ascontiguousarray(np.zeros_like(result) if world.zeros else result)
            if world.bad_slot is not None and len(value) > world.bad_slot:
                value[world.bad_slot] = value[0]
            ctypes.memmove(self._addresses[name], value.ctypes.data, value.nbytes)
        return True


def _numeric_shape(value, shape):
    kind, stride = value.doc_string.split("_")
    rows = 2 * (shape[2] // int(stride)) * (shape[3] // int(stride))
    return (shape[0], rows, {"score": 1, "bbox": 4, "kps": 10}[kind])


def _names(model):
    return [value.name for value in model.graph.output]


def _read(address, shape):
    count = int(np.prod(shape))
    array = np.ctypeslib.as_array((ctypes.c_float * count).from_address(address))
    return array.reshape(shape).copy()


def _session(engine):
    import onnxruntime

    if engine._session is None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 3, 1
        data = engine._model.SerializeToString()
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        object.__setattr__(engine, "_session", session)
    return engine._session


class Inspector:
    def get_engine_information(self, layer_format):
        assert layer_format.name == "JSON"
        engine, new = self._owner, self._world.major >= TYPED_CHOICES
        names = [engine._model.graph.input[0].name, *_names(engine._model)]
        convs = [node for node in engine._model.graph.node if node.op_type == "Conv"]
        if engine._header["verbosity"] != "DETAILED":
            return json.dumps({"Layers": [node.name for node in convs], "Bindings": names})
        layers = [_layer(engine, node, new) for node in convs]
        tensors = [{"Name": name, "DataType": "Float"} for name in names] if new else names
        return json.dumps({"Layers": layers, ("I/O Tensors" if new else "Bindings"): tensors})


def _layer(engine, node, new):
    kinds = {t.name: t.data_type for t in engine._model.graph.initializer}
    makers = {output: n.op_type for n in engine._model.graph.node for output in n.output}
    word = "Half" if kinds.get(node.input[1]) == 10 else "Float"
    if makers.get(node.input[1]) == "DequantizeLinear":
        word = "Int8"
    if engine._header["fp32"]:
        word = "Float"
    if new:
        tensor = {"Name": node.input[0], "Format": "Row major linear", "Datatype": word}
    else:
        tensor = {"Name": node.input[0], "Format/Datatype": f"Row major linear {word} format"}
    return {"Name": node.name, "LayerType": "CaskConvolution", "Inputs": [tensor], "Outputs": []}


class Nothing:
    pass


BEHAVIOURS = {
    "Builder": Builder,
    "IBuilderConfig": Config,
    "ITimingCache": TimingCache,
    "IOptimizationProfile": Profile,
    "IHostMemory": HostMemory,
    "OnnxParser": Parser,
    "ParserError": ParserError,
    "Runtime": Runtime,
    "ICudaEngine": Engine,
    "IExecutionContext": Context,
    "EngineInspector": Inspector,
    "ILogger": Nothing,
    "IProgressMonitor": Nothing,
    "INetworkDefinition": Nothing,
}


# ---------------------------------------------------------------- the machine


class Stream:
    cuda_stream = 4711

    def synchronize(self):
        pass


def install(monkeypatch, version, **machine):
    """Put a fake tensorrt and a fake GPU (on the CPU) into this process; returns the world."""
    import sys

    import torch

    from scrfdconv.converters.formats.tensorrt import api as tensorrt_api
    from scrfdconv.converters.formats.tensorrt import engine_file as tensorrt_format
    from scrfdconv.converters.formats.tensorrt import runner as tensorrt_runner

    trt, world = fake_tensorrt(version, **machine)
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    cuda = SimpleNamespace(
        is_available=lambda: True,
        init=lambda: None,
        current_device=lambda: 0,
        set_device=lambda device: None,
        get_device_capability=lambda: world.capability,
        get_device_name=lambda: world.gpu,
        mem_get_info=lambda: (world.free, world.free),
        Stream=Stream,
        stream=lambda stream: nullcontext(),
    )
    for name, value in vars(cuda).items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(tensorrt_runner, "DEVICE", "cpu")
    monkeypatch.setattr(tensorrt_api, "driver_version", lambda: "580.65")
    tensorrt_format._plan.cache_clear()
    return world


@contextmanager
def moved(world, **changes):
    """The same code on another machine for a while."""
    before = {key: getattr(world, key) for key in changes}
    for key, value in changes.items():
        setattr(world, key, value)
    if "version" in changes:
        world.trt.__dict__["__version__"] = changes["version"]
    yield
    for key, value in before.items():
        setattr(world, key, value)
    world.trt.__dict__["__version__"] = world.version
