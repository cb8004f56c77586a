"""A TorchScript file, read and not run: its members, its code and its metadata."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scrfdconv.converters.artifact import readable
from scrfdconv.converters.checkpoint import pickles
from scrfdconv.converters.errors import ArtifactError, InputFileError
from scrfdconv.converters.formats.torchscript.safety import Code, UnsafeError, code_of
from scrfdconv.converters.formats.torchscript.tracing import METADATA_FILE
from scrfdconv.converters.metadata import architecture_from_metadata
from scrfdconv.converters.options import DYNAMIC
from scrfdconv.converters.runner import Interface, canonical_outputs
from scrfdconv.converters.structured import json_as
from scrfdconv.converters.system.archive import members_of, written_anew

MAX_METADATA = 1 << 16  # bytes; ours has 1 kB
_INPUT = re.compile(  # batch and shape of the metadata; no picture has more than 5 digits
    r"dynamic dynamic|"
    r"(?P<batch>[1-9]\d{0,4}|dynamic) (?P<height>[1-9]\d{0,4})x(?P<width>[1-9]\d{0,4})"
)
_CODE, _EXTRA = "code/", "extra/"
# Pickles of an archive, and the folders of their tensors.
_PICKLES = {"data.pkl": "data/", "constants.pkl": "constants/"}
_CLASSES = re.compile(
    r"__torch__\.(?!torch\.classes).*|torch\.jit\._pickle\.(build_\w+list|restore_type_tag)"
)
# What torch reads when it loads a module. Other members (traced inputs, paths of source code) are
# left out.
_READ = re.compile(r"(data|constants)\.pkl|(data|constants)/\w+|code/.*\.py|version|byteorder")


@dataclass(frozen=True)
class Archive:
    """What is in a TorchScript file that was found to be harmless."""

    path: Path
    members: Mapping[str, bytes]  # those that torch reads
    metadata: dict[str, str]
    code: Code
    outputs: int | None  # None: the code does not say how many

    def stream(self) -> io.BytesIO:
        """The archive for torch: nothing but what was checked."""
        return written_anew(self.members)

    @property
    def interface(self) -> Interface | None:
        """What the model takes and returns; None where only a run can tell."""
        a = architecture_from_metadata(self.metadata)
        if a is None:
            if self.outputs is None:
                return None
            return Interface(canonical_outputs(list(map(str, range(self.outputs))), self.path))
        found = _INPUT.fullmatch(f"{self.metadata.get('batch')} {self.metadata.get('shape')}")
        if found is None:
            raise ArtifactError(
                f"{self.path}: its metadata name no shape and batch that a model has."
            )
        if found["height"] is None:
            return Interface.of(a)
        height, width = map(int, found.group("height", "width"))
        batch = None if found["batch"] == DYNAMIC else int(found["batch"])
        return Interface.of(a, batch, (height, width))


def open_archive(path: Path) -> Archive:
    """Read a TorchScript file; ArtifactError for a damaged one, or one beyond arithmetic.

    No code of the file runs, and torch does not see the file.
    """
    try:
        members = members_of(readable(path))
    except InputFileError as error:
        raise ArtifactError(str(error)) from error
    for pickle, folder in _PICKLES.items():
        _require_true(path, members, pickle, folder)
    sources = _sources(path, members)
    main = _main_class(members["data.pkl"])
    try:
        code = code_of(sources, main)
    except UnsafeError as error:
        raise refusal(path, error) from error
    kept = {name: content for name, content in members.items() if _READ.fullmatch(name)}
    return Archive(
        path=path,
        members=kept,
        metadata=_metadata(path, members),
        code=code,
        outputs=code.outputs_of(main),
    )


def refusal(path: Path, error: UnsafeError) -> ArtifactError:
    """Say what a file would do beyond arithmetic."""
    return ArtifactError(
        f"{path}: its TorchScript uses {error}, which no detector needs, so it is not run; export "
        "it again from the checkpoint, or trace and freeze it (torch.jit.freeze)."
    )


def describe_archive(path: Path) -> dict[str, Any]:
    """What ``inspect`` says of the file, as plain types in reading order."""
    from scrfdconv.converters.graph.facts import facts_of_architecture

    archive = open_archive(path)
    interface = archive.interface
    facts: dict[str, Any] = {
        "takes": ["any", 3, "any", "any"],
        "returns": "open until it runs",
        "precision": "fp32",
        "operators": sorted(archive.code.operators),
        "metadata": {k: v for k, v in archive.metadata.items() if k != "architecture"},
    }
    if interface:
        dims = [interface.batch, interface.channels, interface.height, interface.width]
        facts["takes"] = [dim or "any" for dim in dims]
        facts["returns"] = list(interface.outputs)
    architecture = architecture_from_metadata(archive.metadata)
    return {**facts_of_architecture(architecture), **facts} if architecture else facts


# ---------------------------------------------------------------- parts


def _require_true(path: Path, members: Mapping[str, bytes], name: str, folder: str) -> None:
    """Raise ArtifactError unless a pickle is data, and its tensors match the stored bytes."""
    if name not in members:
        raise ArtifactError(f"{path}: is no TorchScript: {name} is missing.")
    sizes = {
        member.removeprefix(folder): len(content)
        for member, content in members.items()
        if member.startswith(folder)
    }
    try:
        contents = pickles.read_pickle(members[name], _CLASSES)
    except pickles.CodeError as error:
        raise refusal(path, UnsafeError(f"the custom class {error.name}")) from error
    except pickles.PickleError as error:
        raise ArtifactError(f"{path}: {name} is damaged: it has {error}.") from error
    for fault in pickles.missing_bytes(contents, sizes):
        raise ArtifactError(f"{path}: is damaged: {fault}.")


def _sources(path: Path, members: Mapping[str, bytes]) -> dict[str, str]:
    """The code by its dotted module, ``__torch__.torch.nn.modules.conv``."""
    found = {}
    for name, content in members.items():
        if name.startswith(_CODE) and name.endswith(".py"):
            module = name.removeprefix(_CODE).removesuffix(".py").replace("/", ".")
            try:
                found[module] = content.decode("ascii")
            except UnicodeDecodeError as error:
                raise ArtifactError(f"{path}: {name} is no code of TorchScript.") from error
    return found


def _main_class(pickle: bytes) -> str:
    """The class of the model: the first that its pickle names."""
    import pickletools

    for opcode, argument, _ in pickletools.genops(pickle):
        if opcode.name == "GLOBAL":
            return str(argument).replace(" ", ".", 1)
    return ""


def _metadata(path: Path, members: Mapping[str, bytes]) -> dict[str, str]:
    """What the file says of itself; {} for a foreign one."""
    content = members.get(_EXTRA + METADATA_FILE, b"{}")
    where = f"{path}: its {METADATA_FILE}"
    if len(content) > MAX_METADATA:
        raise ArtifactError(f"{where} has {len(content)} bytes, at most {MAX_METADATA} are read.")
    return json_as(content, dict[str, str], where, error=ArtifactError)
