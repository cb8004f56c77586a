"""A module `tensorrt` in which nothing exists that a list of names and signatures does not have.

Unknown attributes, wrong argument names, counts and types raise, as pybind11 does. What a method
does comes from a table of behaviours; a name without one raises NotImplementedError.
"""

from __future__ import annotations

import json
import re
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace

FACTS = Path(__file__).resolve().parent.parent / "data" / "tensorrt_api"
VERSIONS = ("10.3.0", "10.16.1.11", "11.4.0.106")
# Module attributes that a list of public names leaves out.
DUNDERS = ("__version__", "__name__", "__spec__", "__class__", "__dict__")


def facts(version):
    return json.loads((FACTS / f"{version}.json").read_text())


class Enum:
    """A member as pybind11 makes them: int() works, an order does not exist."""

    def __init__(self, owner, name, value):
        self.owner, self.name, self.value = owner, name, value

    def __int__(self):
        return self.value

    def __repr__(self):
        return f"{self.owner}.{self.name}"


class Strict:
    """Base of all classes; `_facts` are its members in the lists, `_world` the fake machine."""

    def __getattribute__(self, name):
        cls = type(self)
        if name.startswith("_") or not _is_fake(cls):
            return object.__getattribute__(self, name)
        return cls._get(self, name)

    @classmethod
    def _get(cls, self, name):
        if name not in cls._facts:
            raise AttributeError(f"'{cls.__name__}' object has no attribute '{name}'")
        entry = cls._facts[name]
        if entry["kind"] == "property":
            getter = getattr(cls._behaviour, f"get_{name}", None)
            if getter is not None:
                return getter(self)
            if name in self._values:
                return self._values[name]
            raise NotImplementedError(f"the fake has no value for {cls.__name__}.{name}")
        return object.__getattribute__(self, name)

    def __setattr__(self, name, value):
        cls = type(self)
        if name.startswith("_") or not _is_fake(cls):
            object.__setattr__(self, name, value)
        elif cls._facts.get(name, {}).get("kind") == "property":
            self._values[name] = value
        else:
            raise AttributeError(f"'{cls.__name__}' object has no attribute '{name}'")


def _is_fake(cls):
    """Python subclasses (loggers, monitors) have attributes of their own."""
    return "_facts" in vars(cls)


def module(version, behaviours, world):
    """A fake `tensorrt` of this version; behaviours: {class: class with its methods}."""
    listed = facts(version)
    classes = {}
    for name, members in listed["classes"].items():
        if any(member["kind"] == "enum" for member in members.values()):
            classes[name] = _enum_class(name, members)
        else:
            classes[name] = _class(name, members, behaviours.get(name), world, classes)
    trt = _Module("tensorrt")
    trt.__spec__ = ModuleSpec("tensorrt", None)  # torch asks for it
    trt.__dict__.update(_listed=frozenset(listed["names"]), _classes=classes, __version__=version)
    return trt


class _Module(ModuleType):
    def __getattr__(self, name):
        if name not in self._listed:
            raise AttributeError(f"module 'tensorrt' has no attribute '{name}'")
        if name not in self._classes:
            raise NotImplementedError(f"tensorrt.{name} exists, but nothing is known about it")
        return self._classes[name]


def _enum_class(name, members):
    found = {m: Enum(name, m, entry["value"]) for m, entry in members.items() if "value" in entry}
    return SimpleNamespace(**found)


def _class(name, members, behaviour, world, classes):
    body = {"_facts": members, "_behaviour": behaviour, "_world": world}
    for member, entry in members.items():
        if entry["kind"] == "Severity":
            body[member] = _severity(world, member)
        elif entry["kind"] == "method" and member not in ("__init__", "Severity"):
            body[member] = _method(name, member, entry, behaviour, classes)
    body["__init__"] = _init(name, members["__init__"], behaviour, classes)
    if behaviour is not None:
        for special in ("__bytes__", "__iter__"):
            if special in vars(behaviour):
                body[special] = vars(behaviour)[special]
    return type(name, (Strict,), body)


def _severity(world, member):
    values = ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE")
    return world.severities.setdefault(member, Enum("Severity", member, values.index(member)))


def _init(name, entry, behaviour, classes):
    signatures = _parsed(entry)

    def init(self, *args, **kwargs):
        self._values = {}
        if not signatures and not self._world.inside:
            raise TypeError(f"{name}: No constructor defined!")
        bound = _bind(name, signatures, args, kwargs, classes) if signatures else args
        if behaviour is not None and hasattr(behaviour, "create"):
            behaviour.create(self, *bound)
        self._made = True

    return init


def _method(owner, name, entry, behaviour, classes):
    signatures = _parsed(entry)

    def call(self, *args, **kwargs):
        bound = _bind(f"{owner}.{name}", signatures, args, kwargs, classes)
        act = getattr(behaviour, name, None)
        if act is None:
            raise NotImplementedError(f"the fake does not know what {owner}.{name} does")
        return act(self, *bound)

    call.__name__ = name
    return call


# ---------------------------------------------------------------- signatures


def _parsed(entry):
    """[(name, type, has default)] without self, one list per overload."""
    found = []
    for text in entry.get("signatures", ()):
        if "(*args, **kwargs)" in text:
            continue
        inner = text[text.index("(") + 1 : text.rindex(") ->")]
        parameters = []
        for part in _split(inner)[1:]:
            declared, _, default = part.partition(" = ")
            name, _, kind = declared.partition(": ")
            parameters.append((name.strip(), kind.strip(), bool(default)))
        found.append(parameters)
    return found


def _split(text):
    """At commas outside of brackets."""
    parts, depth, current = [], 0, ""
    for char in text:
        depth += (char in "[(<") - (char in "])>")
        if char == "," and depth == 0:
            parts.append(current)
            current = ""
        else:
            current += char
    return [*parts, current]


def _bind(where, signatures, args, kwargs, classes):
    for parameters in signatures:
        bound = _bound(parameters, args, kwargs, classes)
        if bound is not None:
            return bound
    raise TypeError(
        f"{where}(): incompatible function arguments {args} {kwargs}; supported: {signatures}"
    )


def _bound(parameters, args, kwargs, classes):
    if len(args) > len(parameters) or not kwargs.keys() <= {p[0] for p in parameters}:
        return None
    given = dict(zip((p[0] for p in parameters), args, strict=False))
    if given.keys() & kwargs.keys():
        return None
    given |= kwargs
    for name, kind, optional in parameters:
        if name not in given:
            if not optional:
                return None
        elif not _fits(given[name], kind, classes):
            return None
    return [given[name] for name, _, _ in parameters if name in given]


def _fits(value, kind, classes):  # noqa: PLR0911 - a table
    short = re.split(r"::|\.", kind)[-1]
    if short == "bool":
        return isinstance(value, bool)
    if kind == "int":
        return isinstance(value, int)
    if short == "SupportsInt":
        return hasattr(value, "__int__")
    if short == "str":
        return isinstance(value, str) or value is None
    if short in ("buffer", "Buffer"):
        return isinstance(value, bytes | bytearray | memoryview)
    if short == "Dims":
        return isinstance(value, tuple | list) and all(isinstance(size, int) for size in value)
    if short in ("tuple", "list"):
        return isinstance(value, tuple if short == "tuple" else list)
    if short == "Severity":
        return isinstance(value, Enum) and value.owner == "Severity"
    if short in classes:
        known = classes[short]
        if isinstance(known, SimpleNamespace):
            return isinstance(value, Enum) and value.owner == short
        # A subclass whose own __init__ forgot the base's is refused by pybind11, too.
        return isinstance(value, known) and getattr(value, "_made", False)
    return True
