"""Options that several verbs share, declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scrfdconv.converters.options import DYNAMIC

ALL = "all"  # threads: as many as the runtime chooses


def number_or_word(text: str, word: str, least: int) -> str:
    """``text``, if it is ``word`` or a whole number from ``least`` on; else BadParameter."""
    if text != word and not (text.isdecimal() and int(text) >= least):
        raise typer.BadParameter(f"{text!r} is neither {word} nor a number from {least} on")
    return text


def thread_counts(texts: list[str]) -> tuple[int | None, ...]:
    """Values of ``--threads``, each once; None for as many as the runtime chooses."""
    return tuple(None if text == ALL else int(text) for text in dict.fromkeys(texts))


def batch(text: str) -> int | None:
    """A value of ``--batch``: None for any number of images."""
    return None if text == DYNAMIC else int(text)


def of_this_machine(name: str, value: int | None, scheduler: str | None) -> None:
    """Refuse an option that says how many processes, where a cluster says that."""
    if value is not None and scheduler is not None:
        raise typer.BadParameter(f"{name} is for this machine; --scheduler uses all workers.")


Scheduler = Annotated[
    str | None,
    typer.Option(
        "--scheduler",
        metavar="tcp://HOST:PORT",
        help="A Dask cluster, whose machines see the same files under the same names.",
    ),
]
Source = Annotated[
    str | None,
    typer.Argument(
        metavar="SOURCE",
        help="A checkpoint, a model that was converted already, or the name of a built-in model "
        "(seeded weights).",
        show_default="scrfd_500m_kps, seeded",
    ),
]
Shape = Annotated[
    tuple[int, int] | None,
    typer.Option("--shape", metavar="H W", help="Fix height and width, multiples of 32."),
]
Batch = Annotated[
    str,
    typer.Option(
        "--batch",
        metavar="N",
        help="Images per run of a fixed shape, or dynamic: any number of them.",
        parser=lambda text: number_or_word(text, DYNAMIC, 1),
    ),
]
Output = Annotated[
    Path | None,
    typer.Option("-o", "--output", help="Where to write.", show_default="NAME[_shapeHxW].SUFFIX"),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
NoVerify = Annotated[
    bool, typer.Option("--no-verify", help="Do not prove that the artifact is its source.")
]
NoLift = Annotated[
    bool,
    typer.Option(
        "--no-lift", help="Take an ONNX SOURCE as the graph that it is, not as a checkpoint."
    ),
]
Architecture = Annotated[
    str | None,
    typer.Option(
        "--architecture",
        "--recipe",  # the option's name up to version 0.1
        help="The network: a built-in name or a TOML file.",
    ),
]
Config = Annotated[
    Path | None,
    typer.Option("--config", help="The architecture: an mmdet config file, read as data."),
]
NormGroups = Annotated[
    int | None,
    typer.Option("--norm-groups", min=1, help="GroupNorm groups, where weights leave it open."),
]
Mean = Annotated[
    str | None,
    typer.Option(
        "--mean",
        metavar="X|X,Y,Z",
        help="Subtracted from pixels of 0 to 255, where no config says it.",
        show_default="127.5",
    ),
]
Std = Annotated[
    str | None,
    typer.Option(
        "--std",
        metavar="X|X,Y,Z",
        help="Divides what is left; values by channel have the order of --color.",
        show_default="128",
    ),
]
Color = Annotated[
    str | None,
    typer.Option(
        "--color",
        metavar="rgb|bgr",
        help="Order of the network's channels, where no config says it.",
        show_default="rgb",
    ),
]
AllowHostCode = Annotated[
    bool,
    typer.Option(
        "--allow-host-code",
        help="Run the code that version compatible TensorRT engines carry: only for engines that "
        "you trust.",
    ),
]
Provider = Annotated[
    str | None,
    typer.Option(
        "--provider",
        metavar="NAME",
        help="An execution provider of the installed ONNX Runtime, such as CUDA or OpenVINO.",
        show_default="CPU",
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="Seed of a built-in model's weights.")]
Loosen = Annotated[
    float,
    typer.Option("--loosen", metavar="FACTOR", help="Multiply the limits; the report says so."),
]
Images = Annotated[
    list[Path] | None,
    typer.Option(
        "--images",
        help="Photographs, files or folders: to verify on, and to measure for FP16 and INT8.",
    ),
]
