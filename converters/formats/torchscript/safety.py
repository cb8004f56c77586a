"""TorchScript is a program: what it may do is decided before any of it runs.

The code in the archive is text. The text is parsed here, and every statement and every operator
must be on a list of those that detectors need. Loading runs none of the text as long as no class
has a ``__setstate__``. After loading, torch's own graph is compared with the list, too, in case
torch's parser reads the text in another way than Python's.
"""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

MAX_CODE = 2 << 20  # bytes; 34G as a module of modules has 0.3 MB
MAX_NESTING = 150  # of syntax; scripted library functions reach 70
MAX_CALLS = 20_000  # of functions of the archive, each counted as often as it is called
MAX_NUMBER = 1 << 17  # in the code: sizes of pictures, channels
MAX_TEXT = 1000  # characters of a message

# Arithmetic on tensors and sizes. None of these reads or writes anything but its operands, makes
# a tensor from a size alone, draws random numbers, or repeats a tensor as often as a number says.
OPERATORS = frozenset(
    [
        "_convolution",
        "conv2d",
        "batch_norm",
        "group_norm",
        "layer_norm",
        "instance_norm",
        "linear",
        "addmm",
        "matmul",
        "mm",
        "bmm",
        "relu",
        "relu_",
        "leaky_relu",
        "leaky_relu_",
        "prelu",
        "hardswish",
        "hardswish_",
        "hardsigmoid",
        "hardsigmoid_",
        "hardtanh",
        "hardtanh_",
        "relu6",
        "relu6_",
        "silu",
        "silu_",
        "sigmoid",
        "sigmoid_",
        "tanh",
        "tanh_",
        "softmax",
        "gelu",
        "elu",
        "elu_",
        "mish",
        "exp",
        "exp_",
        "log",
        "sqrt",
        "rsqrt",
        "pow",
        "abs",
        "neg",
        "reciprocal",
        "round",
        "floor",
        "ceil",
        "clamp",
        "clamp_",
        "clamp_min",
        "clamp_max",
        "add",
        "add_",
        "sub",
        "sub_",
        "mul",
        "mul_",
        "div",
        "div_",
        "rsub",
        "floordiv",
        "floor_divide",
        "remainder",
        "true_divide",
        "max_pool2d",
        "avg_pool2d",
        "adaptive_avg_pool2d",
        "adaptive_max_pool2d",
        "mean",
        "sum",
        "max",
        "min",
        "amax",
        "amin",
        "upsample_nearest2d",
        "upsample_bilinear2d",
        "cat",
        "stack",
        "concat",
        "chunk",
        "split",
        "split_with_sizes",
        "unbind",
        "select",
        "slice",
        "narrow",
        "index_select",
        "reshape",
        "view",
        "view_as",
        "reshape_as",
        "flatten",
        "unflatten",
        "permute",
        "transpose",
        "t",
        "squeeze",
        "unsqueeze",
        "contiguous",
        "dropout",
        "dropout_",
        "feature_dropout",
        "detach",
        "alias",
        "clone",
        "to",
        "type_as",
        "float",
        "size",
        "dim",
        "len",
        "numel",
        "Int",
        "Float",
        "Bool",
        "FloatImplicit",
        "IntImplicit",
        "ScalarImplicit",
        "ScalarToTensor",
        "eq",
        "ne",
        "lt",
        "le",
        "gt",
        "ge",
        "__is__",
        "__isnot__",
        "__not__",
        "__and__",
        "__or__",
        "__getitem__",
        "__contains__",
        "format",
        "list",
        "is_floating_point",
    ]
)
_PRIM = frozenset(
    [
        "NumToTensor",
        "RaiseException",
        "min",
        "max",
        "unchecked_cast",
        "data",
        "requires_grad",
        "device",
        "dtype",
    ]
)
_BUILTINS = frozenset({"int", "float", "bool", "annotate", "unchecked_cast", "uninitialized"})
# Operators that torch's compiler makes of the same text.
_STRUCTURE = frozenset(
    [
        "Constant",
        "GetAttr",
        "ListConstruct",
        "ListUnpack",
        "TupleConstruct",
        "TupleUnpack",
        "TupleIndex",
        "If",
        "Uninitialized",
        "CallMethod",
        "CallFunction",
    ]
)
LOOP, SAVED_STATE = "prim::Loop", ("__setstate__", "__getstate__")
_LISTS = ("add", "add_", "mul", "mul_")  # applied to lists, they make longer lists

_STATEMENTS = (
    *(ast.Module, ast.ClassDef, ast.FunctionDef, ast.arguments, ast.arg, ast.Import, ast.alias),
    *(ast.Assign, ast.AnnAssign, ast.Expr, ast.If, ast.Pass, ast.Return, ast.For),
)
_EXPRESSIONS = (
    *(ast.Call, ast.Name, ast.Attribute, ast.Constant, ast.List, ast.Tuple, ast.Subscript),
    *(ast.UnaryOp, ast.USub, ast.Load, ast.Store),
)


# Names with a meaning, which no variable may take.
_RESERVED = {"torch", "ops", "CONSTANTS", "getattr", "range", *_BUILTINS}
_CUSTOM = "__torch__.torch.classes"


class UnsafeError(ValueError):
    """Code that no detector needs; the message names what it uses."""


@dataclass
class _Class:
    attributes: dict[str, str] = field(default_factory=dict)  # name -> dotted type
    methods: dict[str, ast.FunctionDef] = field(default_factory=dict)


@dataclass
class Code:
    """The code of an archive: classes and functions by their dotted names."""

    classes: dict[str, _Class] = field(default_factory=dict)
    functions: dict[str, ast.FunctionDef] = field(default_factory=dict)
    operators: set[str] = field(default_factory=set)

    def outputs_of(self, name: str) -> int | None:
        """How many tensors the method ``forward`` of a class returns; None: its type is open."""
        forward = self.classes[name].methods.get("forward") if name in self.classes else None
        match forward.returns if forward else None:
            case ast.Subscript(value=ast.Name(id="Tuple"), slice=ast.Tuple(elts=elements)):
                return len(elements)
        return None


# ---------------------------------------------------------------- the text


def code_of(sources: Mapping[str, str], main: str) -> Code:
    """Parse ``sources`` (dotted module -> text) and refuse what no detector needs.

    ``main`` is the class of the model. Raises UnsafeError, which names the operator.
    """
    if sum(map(len, sources.values())) > MAX_CODE:
        raise UnsafeError(f"more than {MAX_CODE >> 20} MiB of code")
    code = Code()
    trees = {module: _parsed(text) for module, text in sources.items()}
    for module, tree in trees.items():
        _collect(module, tree, code)
    for tree in trees.values():
        _require_plain(tree)
    checker = _Checker(code)
    for name in code.functions:
        checker.cost(f"{name}()")
    for name, found in code.classes.items():
        for method in found.methods:
            checker.cost(f"{name}.{method}")
    if main not in code.classes or "forward" not in code.classes[main].methods:
        raise UnsafeError("no method forward")
    return code


def _parsed(text: str) -> ast.Module:
    """The tree of a source text in the small part of the language that two parsers agree on."""
    if not text.isascii() or any(not c.isprintable() and c != "\n" for c in text):
        raise UnsafeError("characters in the code that torch never writes")
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT:
                raise UnsafeError("a comment, which torch never writes")
            if token.type == tokenize.STRING and token.string[:1] not in "'\"":
                raise UnsafeError(f"the text {token.string[:9]}")
        if "\\\n" in text or '"""' in text or "'''" in text or ";" in _without_strings(text):
            raise UnsafeError("lines that torch never writes")
        return ast.parse(text)
    except (SyntaxError, tokenize.TokenError, RecursionError, MemoryError) as error:
        raise UnsafeError(f"code that cannot be read ({type(error).__name__})") from error
    except ValueError as error:  # whole numbers of more than 4300 digits
        raise error if isinstance(error, UnsafeError) else UnsafeError(str(error)) from error


def _without_strings(text: str) -> str:
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return " ".join(token.string for token in tokens if token.type != tokenize.STRING)


def _require_plain(tree: ast.Module) -> None:
    """Raise UnsafeError for syntax, numbers and nesting that no detector needs."""
    waiting: list[tuple[ast.AST, int]] = [(tree, 0)]
    while waiting:
        node, depth = waiting.pop()
        if depth > MAX_NESTING:
            raise UnsafeError(f"code that is nested more than {MAX_NESTING} deep")
        if isinstance(node, ast.While):
            raise UnsafeError(LOOP)
        if not isinstance(node, (*_STATEMENTS, *_EXPRESSIONS)):
            raise UnsafeError(f"the syntax {type(node).__name__}")
        if isinstance(node, ast.Constant):
            _require_small(node.value)
        stored = isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id
        if (node.arg if isinstance(node, ast.arg) else stored) in _RESERVED:
            raise UnsafeError("a variable with the name of a function")
        waiting += [(child, depth + 1) for child in ast.iter_child_nodes(node)]


def _require_small(value: object) -> None:
    if isinstance(value, int) and abs(value) > MAX_NUMBER:
        raise UnsafeError(f"a number above {MAX_NUMBER}")
    if isinstance(value, str) and len(value) > MAX_TEXT:
        raise UnsafeError(f"a text of more than {MAX_TEXT} characters")
    if isinstance(value, bytes | complex) or value is Ellipsis:
        raise UnsafeError(f"a constant of type {type(value).__name__}")


def _collect(module: str, tree: ast.Module, code: Code) -> None:
    for statement in tree.body:
        match statement:
            case ast.Import(names=names) if all(n.name.startswith("__torch__") for n in names):
                pass
            case ast.FunctionDef():
                _add(code.functions, f"{module}.{statement.name}", statement)
            case ast.ClassDef(bases=[ast.Name(id="Module")], keywords=[], decorator_list=[]):
                _add(code.classes, f"{module}.{statement.name}", _class_of(statement))
            case ast.ClassDef():
                raise UnsafeError(f"the custom class {module}.{statement.name}")
            case _:
                raise UnsafeError(f"the statement {type(statement).__name__} outside of functions")


def _add(table: dict[str, Any], name: str, item: Any) -> None:
    if name in table:
        raise UnsafeError(f"{name} twice")
    table[name] = item


def _class_of(definition: ast.ClassDef) -> _Class:
    found = _Class()
    for statement in definition.body:
        match statement:
            case ast.FunctionDef(name=name):
                if name in SAVED_STATE:
                    raise UnsafeError(f"{name}, which runs while the file is loaded")
                _add(found.methods, name, statement)
            case ast.AnnAssign(target=ast.Name(id=name), annotation=kind):
                found.attributes[name] = _kind_named(kind)
            case ast.Assign(
                targets=[
                    ast.Subscript(
                        value=ast.Name(id="__annotations__"), slice=ast.Constant(value=str(name))
                    )
                ],
                value=kind,
            ):
                found.attributes[name] = _kind_named(kind)
            case ast.Assign(targets=[ast.Name(id="__parameters__" | "__buffers__")]) | ast.Pass():
                pass
            case _:
                raise UnsafeError(f"the statement {type(statement).__name__} in a class")
    return found


def _kind_named(annotation: ast.expr) -> str:
    kind = _dotted(annotation)
    if kind.startswith(_CUSTOM):
        raise UnsafeError(f"the custom class {kind}")
    return kind


def _dotted(node: ast.expr) -> str:
    """``a.b.c`` for names and attributes, "" for every other expression."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


# ---------------------------------------------------------------- calls


class _Checker:
    """Resolves and counts every call: functions that each call the next one twice never end."""

    def __init__(self, code: Code) -> None:
        self._code = code
        self._costs: dict[str, int | None] = {}  # None: counting; met again, it calls itself

    def cost(self, name: str) -> int:
        """Calls that running ``function()`` or ``class.method`` leads to."""
        known = self._costs.get(name, 0)
        if name in self._costs:
            if known is None:
                raise UnsafeError(f"{name}, which calls itself")
            return known
        self._costs[name] = None
        if len([c for c in self._costs.values() if c is None]) > MAX_NESTING:
            raise UnsafeError(f"calls that are nested more than {MAX_NESTING} deep")
        body, kinds = self._body(name)
        total = 1 + sum(self._cost_of(call, kinds) for call in _calls(body, kinds, self._code))
        if total > MAX_CALLS:
            raise UnsafeError(f"more than {MAX_CALLS} calls")
        self._costs[name] = total
        return total

    def _body(self, name: str) -> tuple[ast.FunctionDef, dict[str, str]]:
        """The definition, and the class that its first parameter stands for."""
        if name.endswith("()"):
            return self._code.functions[name[:-2]], {}
        owner, _, method = name.rpartition(".")
        definition = self._code.classes[owner].methods[method]
        if not definition.args.args:
            raise UnsafeError(f"{name} without self")
        return definition, {definition.args.args[0].arg: owner}

    def _cost_of(self, call: ast.Call, kinds: Mapping[str, str]) -> int:
        function = call.func
        dotted = _dotted(function)
        dotted = kinds.get(dotted, dotted) if isinstance(function, ast.Name) else dotted
        if isinstance(function, ast.Name) and dotted in _BUILTINS | {"getattr", "range"}:
            self._require_builtin(dotted, call)
            return 0
        if dotted in self._code.functions:
            return self.cost(f"{dotted}()")
        if isinstance(function, ast.Attribute):
            owner = _kind_of(function.value, kinds, self._code)
            if owner in self._code.classes:
                if function.attr not in self._code.classes[owner].methods:
                    raise UnsafeError(f"{owner}.{function.attr}")
                return self.cost(f"{owner}.{function.attr}")
        self._require_operator(dotted, call)
        return 0

    def _require_operator(self, dotted: str, call: ast.Call) -> None:
        head, _, name = dotted.rpartition(".")
        if head in ("torch", "ops.aten") and name in OPERATORS:
            self._code.operators.add(f"aten::{name}")
        elif head == "ops.prim" and name in _PRIM:
            self._code.operators.add(f"prim::{name}")
        else:
            method = getattr(call.func, "attr", type(call.func).__name__)
            raise UnsafeError(_as_operator(dotted or method))

    def _require_builtin(self, name: str, call: ast.Call) -> None:
        constant = len(call.args) == 2 and isinstance(call.args[1], ast.Constant)  # noqa: PLR2004
        if name == "getattr" and not (constant and isinstance(call.args[0], ast.Name)):
            raise UnsafeError("getattr of something other than a submodule")


def _as_operator(dotted: str) -> str:
    """``torch.save`` as torch calls it, ``aten::save``."""
    for head, name in (("torch.", "aten::"), ("ops.aten.", "aten::"), ("ops.prim.", "prim::")):
        if dotted.startswith(head) and "." not in dotted.removeprefix(head):
            shown = dotted.removeprefix(head)
            return f"{'prim::Print' if shown == 'print' else name + shown}"
    if dotted == "print":
        return "prim::Print"
    return (
        dotted.removeprefix("ops.").replace(".", "::", 1) if dotted.startswith("ops.") else dotted
    )


def _calls(function: ast.FunctionDef, kinds: dict[str, str], code: Code) -> Iterator[ast.Call]:
    """Every call in a function, in order, while ``kinds`` learns what its names stand for."""
    waiting: list[ast.AST] = list(reversed(function.body))
    waiting += [*function.args.defaults, *filter(None, function.args.kw_defaults)]
    if function.decorator_list:
        raise UnsafeError(f"a decorator of {function.name}")
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Import):
            raise UnsafeError(f"the syntax {type(node).__name__} in a function")
        if isinstance(node, ast.For):
            _require_short(node)
        if isinstance(node, ast.Assign | ast.AnnAssign):
            _learn(node, kinds, code)
        if isinstance(node, ast.Call):
            yield node
        waiting += reversed(list(ast.iter_child_nodes(node)))


def _require_short(loop: ast.For) -> None:
    """Raise UnsafeError for every loop but BatchNorm's own check of a shape's dimensions."""
    match loop.iter:
        case ast.Call(
            func=ast.Name(id="range"),
            args=[
                ast.Call(
                    func=ast.Attribute(value=ast.Name(id="torch"), attr="sub"),
                    args=[
                        ast.Call(func=ast.Attribute(value=ast.Name(id="torch"), attr="len")),
                        ast.Constant(value=2),
                    ],
                )
            ],
        ) if not any(isinstance(node, ast.For) for part in loop.body for node in ast.walk(part)):
            return
    raise UnsafeError(LOOP)


def _learn(node: ast.Assign | ast.AnnAssign, kinds: dict[str, str], code: Code) -> None:
    """Remember a name that stands for a submodule or a function; forget a reassigned name."""
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    for target in targets:
        if not isinstance(target, ast.Name | ast.Tuple):
            raise UnsafeError("prim::SetAttr")
        for name in [target] if isinstance(target, ast.Name) else target.elts:
            if not isinstance(name, ast.Name):
                raise UnsafeError("prim::SetAttr")
            kind = _kind_of(node.value, kinds, code) if node.value else ""
            if kinds.setdefault(name.id, kind) != kind:
                raise UnsafeError(f"the name {name.id} for two things")


def _kind_of(node: ast.expr, kinds: Mapping[str, str], code: Code) -> str:
    """The class of a submodule or the name of a function of the archive; "" for anything else."""
    match node:
        case ast.Name(id=name):
            return kinds.get(name, "")
        case ast.Call(
            func=ast.Name(id="getattr"), args=[owner, ast.Constant(value=str(attribute))]
        ):
            pass
        case ast.Attribute(value=owner, attr=attribute):
            if _dotted(node) in code.functions:
                return _dotted(node)
        case _:
            return ""
    found = code.classes.get(_kind_of(owner, kinds, code))
    return found.attributes.get(attribute, "") if found else ""


# ---------------------------------------------------------------- torch's graph


def require_safe_graph(graph: Any) -> None:
    """Raise UnsafeError unless torch, too, sees nothing but arithmetic in its inlined graph."""
    waiting = [graph]
    while waiting:
        for node in waiting.pop().nodes():
            space, _, name = node.kind().partition("::")
            known = {"aten": OPERATORS, "prim": _PRIM | _STRUCTURE}.get(space, frozenset())
            if name not in known and not (node.kind() == LOOP and _is_short(node)):
                raise UnsafeError(node.kind())
            if name in _LISTS and any(_is_list(output) for output in node.outputs()):
                raise UnsafeError(f"{node.kind()} of lists")
            waiting += list(node.blocks())


def _is_short(loop: Any) -> bool:
    """True for a loop over a length less two, the only loop that `_require_short` allows."""
    rounds = next(loop.inputs()).node()
    return bool(rounds.kind() == "aten::sub" and next(rounds.inputs()).node().kind() == "aten::len")


def _is_list(value: Any) -> bool:
    return bool(value.type().kind() in ("ListType", "StringType", "TupleType", "DictType"))
