"""A plan that was changed after it was written is not replayed."""

from __future__ import annotations

import json

import pytest

from scrfdconv.converters.errors import InputFileError
from scrfdconv.converters.precision.int8.calibration import CalibrationTable
from scrfdconv.converters.precision.int8.conversion import Int8Settings
from scrfdconv.recipes.int8.plan import Int8Plan, load_plan

TABLE = CalibrationTable(
    source_sha256="a" * 64, images_sha256="b" * 64, images=8, shape=(64, 64), calibrator="minmax",
    ranges={"1": (0.1, 0.30000000000000004), "2": (-1.0, 6e-9)}, means={"1": [0.5, 1 / 3]},
)  # fmt: skip
PLAN = Int8Plan(
    Int8Settings(table=TABLE, keep_float=("x",), sensitive=()), {"held": True, "rounds": []}
)


def test_a_plan_reads_back_as_it_was_written(tmp_path):
    PLAN.save(tmp_path / "plan.json")

    assert load_plan(tmp_path / "plan.json") == PLAN


@pytest.mark.parametrize(
    "change",
    [
        lambda plan: plan["table"]["ranges"].pop("2"),
        lambda plan: plan["table"]["ranges"].update({"1": [0, 1]}),
        lambda plan: plan["table"]["means"].update({"1": [0, 0]}),
        lambda plan: plan["table"].update(source_sha256="c" * 64),
        lambda plan: plan.update(keep_float=[]),
        lambda plan: plan.update(sha256=""),
        lambda plan: plan.pop("sha256"),
        lambda plan: plan["budget"].update(held=False),
    ],
)
def test_a_plan_that_was_changed_is_refused(change, tmp_path):
    path = tmp_path / "plan.json"
    PLAN.save(path)
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))

    with pytest.raises(InputFileError):
        load_plan(path)
