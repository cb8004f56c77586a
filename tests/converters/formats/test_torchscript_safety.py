"""TorchScript is looked at before it runs, and does nothing but arithmetic."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from scrfdconv.converters.errors import ArtifactError
from scrfdconv.converters.formats.torchscript.archive import describe_archive, open_archive

_spec = importlib.util.spec_from_file_location(
    "torchscript_fake", Path(__file__).parents[2] / "fakes" / "torchscript.py"
)
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
torchscript, HEAD = _module.torchscript, _module.HEAD

# lines of forward, what the refusal names
REFUSED = {
    "save": (["ops.aten.save(x, 'out')", "return x"], "aten::save"),
    "save as torch": (["torch.save(x, 'out')", "return x"], "aten::save"),
    "from_file": (["return torch.from_file('/etc/passwd', False, 8)"], "aten::from_file"),
    "load": (["return torch.load('x')"], "aten::load"),
    "print": (["print('::error::')", "return x"], "prim::Print"),
    "warn": (["torch.warn('text', 2)", "return x"], "aten::warn"),
    "python": (["return ops.prim.PythonOp(x)"], "prim::PythonOp"),
    "custom operator": (["return ops.mine.read(x)"], "mine::read"),
    "custom class": (["return __torch__.torch.classes.mine.File().read(x)"], "uses read"),
    "while": (["while True:", "  x = torch.relu(x)", "return x"], "prim::Loop"),
    "for": (["for i in range(99999):", "  x = torch.relu(x)", "return x"], "prim::Loop"),
    "small for": (["for i in range(3):", "  y = torch.relu(x)", "return x"], "prim::Loop"),
    "zeros": (["return torch.zeros([131072, 131072])"], "aten::zeros"),
    "expand": (["return torch.expand(x, [99999, 99999])"], "aten::expand"),
    "repeat": (["return torch.repeat(x, [99999])"], "aten::repeat"),
    "random": (["return torch.rand_like(x)"], "aten::rand_like"),
    "sleep": (["return torch.cuda.sleep(x)"], "torch"),
    "append": (["torch.append([1], 2)", "return x"], "aten::append"),
    "fork": (["return ops.prim.fork(x)"], "prim::fork"),
    "quantised": (["return ops.quantized.conv2d(x)"], "quantized::conv2d"),
    "large number": (["return torch.add(x, 99999999999)"], "a number above"),
    "many digits": ([f"return torch.add(x, {'9' * 5000})"], "cannot be read"),
    "lambda": (["y = lambda z: z", "return x"], "Lambda"),
    "comprehension": (["return torch.cat([x for i in x])"], "ListComp"),
    "with": (["with x:", "  pass", "return x"], "With"),
    "try": (["try:", "  pass", "except:", "  pass", "return x"], "Try"),
    "import": (["import os", "return x"], "Import"),
    "attribute": (["self.a = x", "return x"], "prim::SetAttr"),
    "method of a tensor": (["return x.save('y')"], "save"),
    "getattr": (["return getattr(x, 'data')(x)"], "Call"),
    "dunder": (["return x.__class__.__bases__(x)"], "bases"),
    "comment": (["# nothing", "return x"], "comment"),
    "continued line": (["return \\", "  x"], "torch never writes"),
    "triple quotes": (["y = '''a'''", "return x"], "torch never writes"),
    "not ASCII": (["y = 'ä'", "return x"], "no code of TorchScript"),
    "tab": (["\ty = x", "return x"], "torch never writes"),
    "renamed torch": (["torch = x", "return torch.relu(x)"], "name of a function"),
    "renamed int": (["int = x", "return x"], "name of a function"),
    "itself": (["return (self).forward(x)"], "calls itself"),
    "deep": (["return " + "torch.relu(" * 160 + "x" + ")" * 160], "nested more than"),
    "eval": (["return eval('x')"], "eval"),
    "open": (["return open('x')"], "open"),
    "async": (["return ops.aten.wait(x)"], "aten::wait"),
    "no code": (["return ("], "cannot be read"),
    "long text": (["y = '" + "a" * 5000 + "'", "return x"], "a text of more"),
    "two statements": (["y = x; return y"], "torch never writes"),
}

CODE = {
    "runs while loading": (
        "  def __setstate__(self, x: Tensor) -> None:\n    pass\n",
        "runs while",
    ),
    "decorator": ("  @hook\n  def other(self, x: Tensor) -> None:\n    pass\n", "decorator|Name"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_detector_does_not_need_is_refused_by_its_name(case, tmp_path):
    lines, said = REFUSED[case]
    path = torchscript(tmp_path / "model.pt", *lines)

    with pytest.raises(ArtifactError, match=said):
        open_archive(path)


def test_arithmetic_is_let_pass_and_listed(tmp_path):
    path = torchscript(tmp_path / "model.pt", "y = torch.relu(x)", "return torch.add(y, x)")

    facts = describe_archive(path)

    assert facts["operators"] == ["aten::add", "aten::relu"]
    assert facts["returns"] == "open until it runs"


@pytest.mark.parametrize("case", CODE)
def test_code_that_runs_while_a_file_is_loaded_is_refused(case, tmp_path):
    text, said = CODE[case]
    code = HEAD + "    return x\n" + text

    path = torchscript(tmp_path / "model.pt", **{"code/__torch__.py": code.encode()})

    with pytest.raises(ArtifactError, match=said):
        open_archive(path)


def test_two_calls_of_two_calls_of_two_calls_are_counted(tmp_path):
    functions = ["def f0(x: Tensor) -> Tensor:\n  return torch.relu(x)\n"]
    for level in range(1, 40):
        call = f"__torch__.f{level - 1}"
        functions.append(f"def f{level}(x: Tensor) -> Tensor:\n  return {call}({call}(x))\n")
    code = "".join(functions) + HEAD + "    return __torch__.f39(x)\n"
    path = torchscript(tmp_path / "model.pt", **{"code/__torch__.py": code.encode()})

    with pytest.raises(ArtifactError, match="more than 20000 calls"):
        open_archive(path)


@pytest.mark.parametrize(
    ("member", "content"),
    [
        ("data.pkl", b"\x80\x02cos\nsystem\n)R."),
        ("data.pkl", b"\x80\x02c__torch__.torch.classes.mine\nFile\n)\x81}(ub."),
        ("data.pkl", b"\x80\x02c__torch__\nM\n)\x81}(X\x01\x00\x00\x00aubx"),
        ("data.pkl", b""),
        ("constants.pkl", b"\x80\x02cbuiltins\neval\n."),
        ("constants.pkl", b"\x80\x02" + b")" + b"\x85" * 1000 + b"."),
        ("extra/scrfdconv.json", b"[1, 2]"),
        ("extra/scrfdconv.json", b'{"architecture": "{}"}'),
        ("extra/scrfdconv.json", b'{"a": 1}'),
        ("extra/scrfdconv.json", b"[" * 100_000),
        ("extra/scrfdconv.json", b"\xff\xfe"),
        ("extra/scrfdconv.json", b"{" + b" " * 100_000 + b"}"),
        ("code/../up.py", b"def f(x: Tensor) -> Tensor:\n  return x\n"),
        ("code/__torch__.py", b"\x00" * 100),
    ],
)
def test_members_that_are_not_what_they_should_be_are_refused(member, content, tmp_path):
    path = torchscript(tmp_path / "model.pt", "return x", **{member: content})

    with pytest.raises(ArtifactError):
        describe_archive(path)
