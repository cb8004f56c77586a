"""How to quantize a model: by an existing plan, or by measuring and searching."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scrfdconv.checks.faces.coverage import Coverage
from scrfdconv.checks.results import Report
from scrfdconv.converters.errors import CheckFailed, UsageError
from scrfdconv.converters.graph.onnx_runner import OnnxRunner
from scrfdconv.converters.precision.int8.conversion import Int8Settings
from scrfdconv.recipes.faces.pictures import Pictures, load_pictures, spread
from scrfdconv.recipes.int8.conversion import Int8Conversion
from scrfdconv.recipes.int8.measuring import Calibrated, calibrate, faces_seen, split
from scrfdconv.recipes.int8.plan import Int8Plan, load_plan, require_same
from scrfdconv.recipes.int8.search import Judge, Search, search

# Verification runs the reference on every picture, 1 s each in PyTorch (2.5G_KPS).
MOST_VERIFIED = 8


@dataclass(frozen=True)
class Decided:
    """How to quantize, why, and what to verify on."""

    options: Int8Settings
    notes: tuple[str, ...]
    photographs: tuple[Path, ...] = ()  # for the verification
    coverage: Coverage | None = None
    search: Search | None = None
    replayed: bool = False

    @property
    def budget(self) -> dict[str, Any]:
        """The accuracy budget and the rounds of the search, for the plan."""
        rounds = [one.to_dict() for one in self.search.rounds] if self.search else []
        return {"held": self.search is not None and self.search.holds, "rounds": rounds}


# ---------------------------------------------------------------- a plan that is there already


def replay(conversion: Int8Conversion) -> Decided | None:
    """The plan's decisions, if there is a plan; pictures are only used to verify."""
    path = conversion.options.plan
    if path is None or not path.is_file():
        return None
    plan = load_plan(path)
    require_same(plan, path, conversion.source.digest, conversion.size)
    conversion.require_same_pictures(plan.options.table, path)
    _require_no_other_wishes(conversion, plan, path)
    notes = [*conversion.notes(), f"replayed {path}: nothing was calibrated or searched"]
    photographs: tuple[Path, ...] = ()
    if conversion.images and conversion.trained:
        pictures = _load(conversion)
        photographs = spread(pictures.paths, MOST_VERIFIED)
        notes += [*pictures.notes(), _verified_on(photographs, apart=False)]
    return Decided(plan.options, tuple(notes), photographs, replayed=True)


def _require_no_other_wishes(conversion: Int8Conversion, plan: Int8Plan, path: Path) -> None:
    if plan.options.target != conversion.arrangement:
        raise UsageError(f"{path}: is for --target {plan.options.target}; name a new file.")
    if set(conversion.options.keep_float) - set(plan.options.keep_float):
        raise UsageError(f"{path}: was made with other --keep-float; name a new file.")


# ---------------------------------------------------------------- measuring and searching


def calibrate_and_search(conversion: Int8Conversion) -> Decided:
    """Calibrate and search; raises CheckFailed where the accuracy budget cannot be kept."""
    pictures = _load(conversion)
    reference = OnnxRunner(conversion.parent.path)
    faces = list(faces_seen(conversion, reference, pictures))
    blind = not any(picture.faces for picture in faces)
    if blind and conversion.trained and conversion.verified:
        raise CheckFailed(_nothing_proven(conversion, len(faces)))
    parts = split(faces)
    calibrated = calibrate(
        conversion, pictures.take(parts.inside), [faces[i] for i in parts.inside]
    )
    notes = [*conversion.notes(), *pictures.notes(), parts.note, *calibrated.notes]
    options = conversion.settings(calibrated.tables[0])
    if blind or not conversion.trained:
        notes += _no_faces(conversion)
        return Decided(options, tuple(notes), coverage=calibrated.coverage)
    held = pictures.take(parts.held)
    found = _searched(conversion, reference, held, calibrated)
    if not found.holds:
        raise CheckFailed(_failure(found), Report.of(found.results(), notes))
    photographs = spread((held if parts.apart else pictures).paths, MOST_VERIFIED)
    notes.append(_verified_on(photographs, apart=parts.apart))
    return Decided(
        options=found.options,
        notes=tuple(notes),
        photographs=photographs,
        coverage=calibrated.coverage,
        search=found,
    )


def _load(conversion: Int8Conversion) -> Pictures:
    if not conversion.images:
        raise UsageError(
            "INT8 needs photographs to calibrate on: --images DIR, 24 or more of what the "
            "detector will meet; or a --plan that is there already."
        )
    with conversion.stage("reading pictures") as progress:
        return load_pictures(conversion.images, conversion.size, progress)


def _searched(
    conversion: Int8Conversion, reference: OnnxRunner, held: Pictures, calibrated: Calibrated
) -> Search:
    with conversion.stage("searching within the accuracy budget") as progress:
        return search(
            conversion.parent,
            [conversion.settings(table) for table in calibrated.tables],
            Judge.of(reference, held.canvases, conversion.options.max_face_loss, conversion.opened),
            calibrated.canvases,
            conversion.options.max_rounds,
            progress,
        )


def _no_faces(conversion: Int8Conversion) -> Iterator[str]:
    if conversion.trained:
        yield ("the reference finds no face on the pictures: nothing is said about faces")


def _nothing_proven(conversion: Int8Conversion, pictures: int) -> str:
    return (
        f"{conversion.source.name}: finds no face on any of the {pictures} pictures, so nothing "
        "would be proven; give --images with faces, or pass --no-verify."
    )


def _verified_on(photographs: tuple[Path, ...], *, apart: bool) -> str:
    rest = ", none of which was calibrated on" if apart else ""
    return f"verified on {len(photographs)} of the pictures{rest}"


def _failure(found: Search) -> str:
    last = found.rounds[-1].found
    if last.undefined:
        return f"The accuracy budget cannot be judged: {last.undefined}."
    lost = last.reference_faces - last.found
    return (
        f"The accuracy budget cannot be kept: after {len(found.rounds)} rounds {lost} of "
        f"{last.reference_faces} faces are lost and {last.extra} are new, {found.allowed} allowed; "
        "give more and more varied --images, raise --max-rounds or --max-face-loss, or keep more "
        "layers float (--keep-float)."
    )
