"""Where an artifact begins to differ from its reference, from files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from scrfdconv.checks.bisection.layer_errors import Bisection, bisect, size_of
from scrfdconv.checks.faces.compare import model_input
from scrfdconv.checks.parity import COSTLY_PIXELS, agree_on_pictures, common_normalization
from scrfdconv.converters.checkpoint.loading import Checkpoint
from scrfdconv.converters.errors import ScrfdconvError, UsageError
from scrfdconv.converters.formats import Format, Source, format_of, formats, open_artifact
from scrfdconv.converters.layers import Layers
from scrfdconv.converters.precision import FLOAT
from scrfdconv.converters.system.scratch import scratch_folder


def bisected(reference: Source, path: Path, images: Sequence[Path] = ()) -> Bisection:
    """Compare the artifact at ``path`` layer by layer with ``reference``, exported if need be.

    ``images`` are photographs to run besides the seeded pictures. Raises UsageError where the
    values between the layers of one of both cannot be seen, ArtifactError where nothing fits.
    """
    with scratch_folder() as folder:
        graph = _graph_on_the_way(format_of(path))
        if isinstance(reference, Checkpoint):
            source = folder / f"reference{graph.suffix}"
            graph.build(reference, graph.options(), source, FLOAT)
        else:
            source = reference.path
        want, got = _layers(source, graph), _layers(path, graph)
        agree_on_pictures(want.runner, got.runner)
        size = size_of(want, got)
        prepared = common_normalization(want.runner.interface, got.runner.interface)
        return bisect(want, got, [model_input(image, size, prepared) for image in images])


def _graph_on_the_way(found: Format) -> Format:
    """The float graph that a format is made from, or could have been."""
    first = found.chain()[0]
    return first if first.from_itself else next(f for f in formats().values() if f.from_itself)


def _layers(path: Path, graph: Format) -> Layers:
    found = format_of(path)
    layers = found.layers(path)
    if layers is None:
        raise UsageError(
            f"{path}: is of {found.title} in {found.precision_of(path)}, which shows no values "
            f"between its layers; give the {graph.title} file of the same weights."
        )
    return layers


def first_fault(reference: Source, path: Path) -> str:
    """Where a model that failed its verification begins to differ; "" where nobody can tell.

    A verification runs a dozen small pictures, a bisection two: measured with 500M_KPS and 2.5G_KPS
    it takes half of the time. Of a large fixed size a verification runs one picture, and a
    bisection would take eight times as long: then the advice is given instead.
    """
    try:
        shape = open_artifact(path).interface.shape
        if shape and math.prod(shape) >= COSTLY_PIXELS:
            return "" if format_of(path).layers(path) is None else "`bisect` names the layer"
        found = bisected(reference, path)
    except ScrfdconvError:  # the verification has said what is wrong; this would only explain
        return ""
    return found.line() if found.faulty else ""
