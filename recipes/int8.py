"""INT8 from any source: calibrate, search within the accuracy budget, build, verify, time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scrfdconv.checks.calibration import Coverage, Seen, coverage, seen
from scrfdconv.checks.images import UInt8
from scrfdconv.checks.report import Report
from scrfdconv.checks.verify import Demand
from scrfdconv.converters.artifact import Artifact
from scrfdconv.converters.calibration import (
    CALIBRATORS,
    Extremes,
    Table,
    chosen_ranges,
    equalised,
    extremes,
    load_table,
    widest,
)
from scrfdconv.converters.errors import CheckFailed, InputFileError, UsageError
from scrfdconv.converters.formats import Source
from scrfdconv.converters.formats.onnx import OnnxRunner, image_input, load_onnx
from scrfdconv.converters.formats.onnx_fp16 import require_convertible
from scrfdconv.converters.formats.onnx_int8 import Int8Options, kept_for, needs_reduced_range
from scrfdconv.converters.quantization import quantizable
from scrfdconv.recipes.convert import Made, convert
from scrfdconv.recipes.int8_plan import Plan, load_plan, require_same
from scrfdconv.recipes.int8_request import (
    Int8Recipe,
    Progress,
    Stage,
    calibration_size,
    counted,
    empty_table,
    float_parent,
    is_seeded,
    onnx_steps,
)
from scrfdconv.recipes.int8_search import Judge, Search, search
from scrfdconv.recipes.pictures import Pictures, batches, load_pictures, mosaics

if TYPE_CHECKING:
    import onnx

# A quarter is held back to judge by, where enough remain to calibrate on.
FEWEST_TO_SPLIT, HELD_SHARE = 16, 4
SPLIT_SEED = 0
# Verification runs the reference twice on every picture, 1 s each in PyTorch (2.5G_KPS).
MOST_VERIFIED = 8


@dataclass(frozen=True)
class Int8Made:
    """The artifact, and everything that was measured on the way."""

    made: Made
    options: Int8Options
    coverage: Coverage | None
    search: Search | None
    notes: tuple[str, ...] = ()
    replayed: bool = False

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the calibration pictures lack."""
        return self.coverage.warnings if self.coverage else ()


@contextmanager
def silent(_: str) -> Iterator[Progress]:
    """A stage that shows nothing."""
    yield lambda done, total: None


def int8(
    source: Source,
    out: Path,
    recipe: Int8Recipe,
    demand: Demand | None,
    stage: Stage = silent,
    *,
    parent: Source | None = None,
) -> Int8Made:
    """Build and verify an INT8 artifact at ``out``; ``demand`` None skips the verification.

    ``parent`` is the float ONNX of ``source``, where it is there already.
    Raises CheckFailed, with all rounds in its report, where the accuracy budget cannot be kept.
    """
    start = parent or source
    steps = onnx_steps(start, recipe)
    with float_parent(start, steps) as float_onnx:
        job = _Job(source, float_onnx, recipe, stage)
        decided = job.replayed() or job.decided()
    photographs = job.verified_on()
    with stage("building and verifying"):
        wanted = demand and replace(demand, images=(*photographs, *demand.images), weights=False)
        made = convert(
            source, "onnx_int8", out, decided.options, wanted, parent=parent, on_the_way=steps
        )
    if decided.search:
        made = Made(made.artifact, _with_budget(made.report, decided.search, job.notes))
    if recipe.plan and not decided.replayed:
        Plan(decided.options, decided.budget).save(recipe.plan)
    if recipe.save_calibration:
        decided.options.table.save(recipe.save_calibration)
    return Int8Made(
        made, decided.options, decided.coverage, decided.search, tuple(job.notes), decided.replayed
    )


@dataclass(frozen=True)
class _Decided:
    """How to quantize, and why."""

    options: Int8Options
    coverage: Coverage | None = None
    search: Search | None = None
    replayed: bool = False

    @property
    def budget(self) -> dict[str, Any]:
        """For the plan."""
        rounds = [one.to_dict() for one in self.search.rounds] if self.search else []
        return {"held": self.search is not None and self.search.holds, "rounds": rounds}


class _Job:
    """The decisions about one source, in the order in which they are made."""

    def __init__(self, source: Source, parent: Artifact, recipe: Int8Recipe, stage: Stage) -> None:
        self._source, self._parent, self._recipe, self._stage = source, parent, recipe, stage
        self.notes: list[str] = []
        self._interface = require_convertible(parent.path)
        self._trained = not is_seeded(source, parent)
        self._size = calibration_size(self._interface, recipe)
        self._pictures: Pictures | None = None
        self._held: tuple[Path, ...] = ()
        # Before minutes of measuring: an unknown name in --keep-float, or a model of another kind.
        model = quantizable(load_onnx(parent.path))
        kept_for(model, self._interface.outputs, self._options(empty_table()))
        if not self._trained:
            self.notes.append(
                "the weights are seeded, not trained: limits of raw outputs apply, and nothing is "
                "said about faces"
            )

    # ------------------------------------------------------------ a plan that is there already

    def replayed(self) -> _Decided | None:
        """The plan's decisions, if there is a plan."""
        path = self._recipe.plan
        if path is None or not path.is_file():
            return None
        plan = load_plan(path)
        require_same(plan, path, self._source.digest, self._size)
        self._require_no_other_wishes(plan, path)
        if self._recipe.images:
            self._load()
        self.notes.append(f"replayed {path}: nothing was calibrated or searched")
        return _Decided(plan.options, replayed=True)

    def _require_no_other_wishes(self, plan: Plan, path: Path) -> None:
        wishes = self._recipe
        if plan.options.target != wishes.target:
            raise UsageError(f"{path}: is for --target {plan.options.target}; name a new file.")
        if set(wishes.keep_float) - set(plan.options.keep_float):
            raise UsageError(f"{path}: was made with other --keep-float; name a new file.")

    # ------------------------------------------------------------ measuring and searching

    def decided(self) -> _Decided:
        """Calibrate and search."""
        pictures = self._load()
        reference = OnnxRunner(self._parent.path)
        faces = list(self._seen(reference, pictures))
        inside, held = self._split(faces)
        calibration, judged = pictures.take(inside), pictures.take(held)
        self._held = judged.paths if inside != held else ()
        shown, tables = self._calibrated(calibration, [faces[i] for i in inside])
        candidates = [self._options(table) for table in tables]
        if not self._trained or not any(picture.faces for picture in faces):
            if self._trained:
                self._trained = False
                self.notes.append(
                    "the reference finds no face on the pictures: limits of raw outputs apply, and "
                    "nothing is said about faces"
                )
            return _Decided(candidates[0], shown)
        with self._stage("searching within the accuracy budget") as progress:
            judge = Judge.of(reference, judged.canvases, self._recipe.max_face_loss)
            found = search(
                self._parent, candidates, judge, calibration.canvases, self._recipe.max_rounds,
                progress,
            )  # fmt: skip
        if not found.holds:
            raise CheckFailed(_budget_failed(found), Report.of(found.results(), self.notes))
        return _Decided(found.options, shown, found)

    def _load(self) -> Pictures:
        if not self._recipe.images:
            raise UsageError(
                "INT8 needs photographs to calibrate on: --images DIR, 24 or more of what the "
                "detector will meet; or a --plan that is there already."
            )
        with self._stage("reading pictures") as progress:
            self._pictures = load_pictures(self._recipe.images, self._size, progress)
        self.notes += self._pictures.notes()
        return self._pictures

    def _split(self, faces: Sequence[Seen]) -> tuple[list[int], list[int]]:
        """Places of the pictures to calibrate on, and of those to judge on.

        Of pictures ordered by their number of faces every fourth is held back, so that both parts
        see crowds and portraits alike; a seeded shuffle decides between equals.
        """
        count = len(faces)
        if count < FEWEST_TO_SPLIT:
            self.notes.append(
                f"the budget was judged on the calibration pictures: {count} are too few to hold "
                f"some back ({FEWEST_TO_SPLIT} are enough)"
            )
            return list(range(count)), list(range(count))
        order = np.random.default_rng(SPLIT_SEED).permutation(count).tolist()
        held = sorted(sorted(order, key=lambda i: faces[i].faces)[HELD_SHARE // 2 :: HELD_SHARE])
        self.notes.append(
            f"calibrated on {count - len(held)} pictures, judged on {len(held)} others: of the "
            f"pictures by number of faces every {HELD_SHARE}th (seed {SPLIT_SEED})"
        )
        return [i for i in range(count) if i not in set(held)], held

    def _calibrated(
        self, pictures: Pictures, faces: Sequence[Seen]
    ) -> tuple[Coverage, list[Table]]:
        """What the pictures show, and a table for each calibrator that is to be tried."""
        model = quantizable(load_onnx(self._parent.path))
        batch = self._interface.batch or 1
        with self._stage("calibrating") as progress:
            images = counted(batches(pictures.canvases, batch), len(pictures), progress)
            parts = list(extremes(model, images))
        shown = coverage(faces, parts, trained=self._trained)
        canvases = list(pictures.canvases)
        if shown.warnings:
            extra = mosaics(pictures.canvases)
            canvases += extra
            parts += extremes(model, batches(extra, batch))
            self.notes.append(
                f"the calibration set is poor: {len(extra)} mosaics of its pictures at half and "
                "quarter size were added, and channels were not equalised, which needs ranges "
                "that can be trusted"
            )
        if self._recipe.calibration_table:
            return shown, [self._given_table(self._recipe.calibration_table)]
        whole = widest(parts)
        channels = {} if shown.warnings else {k: v.tolist() for k, v in whole.largest().items()}
        return shown, list(self._tables(model, pictures, canvases, whole, channels))

    def _given_table(self, path: Path) -> Table:
        table = load_table(path)
        if table.source_sha256 != self._source.digest:
            raise InputFileError(
                f"{path}: was measured on another source (sha256 {table.source_sha256[:12]}...); "
                "calibrate anew with --images."
            )
        return table

    def _tables(
        self,
        model: onnx.ModelProto,
        pictures: Pictures,
        canvases: Sequence[UInt8],
        whole: Extremes,
        channels: dict[str, list[float]],
    ) -> Iterator[Table]:
        level, factors = equalised(model, channels)
        reach = whole.ranges(image_input(model).name, factors)
        wanted, batch = self._recipe.calibrator, self._interface.batch or 1
        for calibrator in CALIBRATORS if wanted == "auto" else (wanted,):
            with self._stage(f"calibrating ({calibrator})") as progress:
                images = counted(batches(canvases, batch), len(canvases), progress)
                ranges = chosen_ranges(level, reach, calibrator, images)
            yield Table(
                self._source.digest, pictures.digest, len(pictures), self._size, calibrator,
                ranges, channels,
            )  # fmt: skip

    def _seen(self, reference: OnnxRunner, pictures: Pictures) -> Iterator[Seen]:
        batch = self._interface.batch or 1
        for images in batches(pictures.canvases, batch)():
            outputs = reference.run(images)
            yield seen({name: value[:1] for name, value in outputs.items()}, self._size)

    def verified_on(self) -> tuple[Path, ...]:
        """Photographs for the verification: those held back, if there are such.

        None for a model that finds no faces in them.
        """
        if self._pictures is None or not self._trained:
            return ()
        paths = self._held or self._pictures.paths
        places = np.linspace(0, len(paths) - 1, min(len(paths), MOST_VERIFIED)).astype(int)
        self.notes.append(
            f"verified on {len(places)} of the pictures"
            + (", none of which was calibrated on" if self._held else "")
        )
        return tuple(paths[i] for i in places)

    def _options(self, table: Table) -> Int8Options:
        reduce = self._recipe.target == "cpu" and needs_reduced_range()
        return Int8Options(table, self._recipe.target, reduce, self._recipe.keep_float)


def _with_budget(report: Report | None, found: Search, notes: Sequence[str]) -> Report | None:
    if report is None:
        return None
    return Report.of([*report.results, *found.results()], [*report.notes, *notes])


def _budget_failed(found: Search) -> str:
    last = found.rounds[-1].found
    lost = last.reference_faces - last.found
    return (
        f"The accuracy budget cannot be kept: after {len(found.rounds)} rounds {lost} of "
        f"{last.reference_faces} faces are lost and {last.extra} are new, {found.allowed} allowed; "
        "give more and more varied --images, raise --max-rounds or --max-face-loss, or keep more "
        "layers float (--keep-float)."
    )
