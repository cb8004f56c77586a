"""WIDER FACE: reading, scoring against plain loops and the published numbers, pre-processing."""

import math
import runpy
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scrfdconv.checks.widerface import geometry as widerface_images
from scrfdconv.checks.widerface import protocol as widerface
from scrfdconv.checks.widerface import result_files as widerface_results
from scrfdconv.checks.widerface import truth as widerface_truth
from scrfdconv.checks.widerface.protocol import evaluate_results
from scrfdconv.checks.widerface.result_files import load_results
from scrfdconv.checks.widerface.truth import GroundTruth, ImageTruth
from scrfdconv.converters.errors import CheckFailed, InputFileError, OutputError, UsageError
from scrfdconv.converters.normalization import STANDARD

oracle = runpy.run_path(str(Path(__file__).with_name("widerface_oracle.py")))["evaluate"]

NAME = "0--Parade/0_Parade_marchingband_1_465"
GOOD = "x.jpg\n2\n10 10 20 20 0.9\n1.5 2 3 4 0.25\n"


def truth_of(*images):
    """Ground truth from (name, boxes, counts of the three subsets)."""
    return GroundTruth(
        tuple(
            ImageTruth(
                name,
                np.array(boxes, np.float64).reshape(-1, 4),
                np.array(counts, bool).reshape(3, -1),
            )
            for name, boxes, counts in images
        )
    )


def rows(*detections):
    return np.array(detections, np.float64).reshape(-1, 5)


@pytest.fixture
def wider(data):
    if not (data / "wider").is_dir():
        pytest.skip(f"the WIDER FACE ground truth is not here: {data / 'wider'}")
    return data / "wider"


# --- scoring -----------------------------------------------------------------------------------


def test_the_published_result_set_has_its_published_average_precision(wider):
    truth = widerface_truth.load_ground_truth(wider)
    results = load_results(wider / "retinaface_mobilenet0.25_results.zip")

    evaluation = evaluate_results(truth, results)

    percent = {name: 100 * ap for name, ap in evaluation.ap.items()}
    # Published: 90.70 / 88.16 / 73.82. The last is cut, not rounded: the scripts of RetinaFace
    # and the plain loops of the oracle give 73.828633 for these files, too.
    assert percent == pytest.approx({"easy": 90.70, "medium": 88.16, "hard": 73.82}, abs=0.01)
    exact = {"easy": 90.695842, "medium": 88.157906, "hard": 73.828633}
    assert percent == pytest.approx(exact, abs=1e-6)


def test_the_ground_truth_has_the_known_numbers_of_images_and_faces(wider):
    truth = widerface_truth.load_ground_truth(wider)

    assert len(truth.images) == 3226
    faces = sum(image.counts.sum(axis=1) for image in truth.images)
    assert faces.tolist() == [7211, 13319, 31958]
    assert truth.names[0] == NAME


@pytest.mark.slow
def test_real_images_score_exactly_as_the_plain_loops(wider):
    truth = widerface_truth.load_ground_truth(wider).first(60)
    everything = load_results(wider / "retinaface_mobilenet0.25_results.zip")
    results = {name: everything[name] for name in truth.names}

    evaluation = evaluate_results(truth, results)

    for row, curve in enumerate(evaluation.curves.values()):
        images = [(i.boxes, i.counts[row], results[i.name]) for i in truth.images]
        ap, totals = oracle(images)
        assert curve.ap == pytest.approx(ap, abs=1e-12)
        assert np.array_equal(np.stack([curve.proposals, curve.found], 1), totals)


# Few different coordinates and scores, so that ties, exact halves and second hits are common.
coordinates = st.integers(0, 12).map(float)
sides = st.integers(-1, 8).map(float)
scores = st.sampled_from([0.0, 0.02, 0.1, 0.25, 0.5, 0.999, 1.0]) | st.floats(-3, 3, width=32)
detection = st.tuples(coordinates, coordinates, sides, sides, scores)
face = st.tuples(coordinates, coordinates, sides, sides, st.tuples(*[st.booleans()] * 3))
image = st.tuples(st.lists(face, max_size=5), st.lists(detection, max_size=8))


@settings(deadline=None, max_examples=150)
@given(images=st.lists(image, min_size=1, max_size=4), iou=st.sampled_from([0.3, 0.5, 0.75]))
def test_any_small_data_set_scores_exactly_as_the_plain_loops(images, iou):
    named = [(f"0--Parade/{number}", *image) for number, image in enumerate(images)]
    truth = truth_of(
        *((name, [f[:4] for f in fs], np.array([f[4] for f in fs]).T) for name, fs, _ in named)
    )
    results = {name: rows(*found) for name, _, found in named}

    evaluation = evaluate_results(truth, results, iou)

    for row, subset in enumerate(widerface_truth.SUBSETS):
        plain = [(i.boxes, i.counts[row], results[i.name]) for i in truth.images]
        ap, totals = oracle(plain, iou)
        curve = evaluation.curves[subset]
        assert np.array_equal(np.stack([curve.proposals, curve.found], 1), totals)
        assert curve.ap == pytest.approx(ap, abs=1e-12, nan_ok=True)


def test_many_predictions_are_matched_in_parts_with_the_same_result(monkeypatch):
    rng = np.random.default_rng(0)
    boxes = rng.integers(0, 60, (7, 4))
    truth = truth_of((NAME, boxes, rng.random((3, 7)) < 0.7))
    found = np.concatenate([rng.integers(0, 60, (50, 4)), rng.random((50, 1))], axis=1)
    whole = evaluate_results(truth, {NAME: found})

    monkeypatch.setattr(widerface, "PAIRS_AT_ONCE", 10)

    assert evaluate_results(truth, {NAME: found}).ap == whole.ap


FACE = [10, 10, 19, 19]
HIT, MISS = (10, 10, 19, 19), (100, 100, 19, 19)
LOWEST = (200, 200, 5, 5, 0.0)  # sets the lowest score, so that 0.5 stays 0.5


def hard_ap(boxes, counts, *detections):
    """AP of the hard subset for one image; ``counts`` are the same in all subsets."""
    return evaluate_results(truth_of((NAME, boxes, [counts] * 3)), {NAME: rows(*detections)}).ap[
        "hard"
    ]


@pytest.mark.parametrize(
    ("what", "counts", "detections", "ap"),
    [
        ("found", [1], [(*HIT, 1.0), LOWEST], 1.0),
        ("not found", [1], [(*MISS, 1.0), LOWEST], 0.0),
        ("found after a false alarm", [1], [(*MISS, 1.0), (*HIT, 0.5), LOWEST], 0.5),
        ("found twice: the second is false", [1], [(*HIT, 1.0), (*HIT, 0.9), LOWEST], 1.0),
        ("a false alarm of equal score", [1], [(*HIT, 1.0), (*MISS, 1.0), LOWEST], 0.5),
        ("too little overlap", [1], [(10, 10, 19, 8, 1.0), LOWEST], 0.0),
        # 20x10 of 20x20 pixels, borders included: IoU 0.5, which is a hit.
        ("overlap of exactly one half", [1], [(10, 10, 19, 9, 1.0), LOWEST], 1.0),
        ("no detections", [1], [], 0.0),
    ],
)
def test_a_face_is(what, counts, detections, ap):
    assert hard_ap([FACE], counts, *detections) == pytest.approx(ap), what


def test_a_hit_on_a_face_outside_the_subset_is_no_false_alarm():
    ap = hard_ap([FACE, [50, 50, 9, 9]], [1, 0], (50, 50, 9, 9, 1.0), (*HIT, 0.5), LOWEST)

    assert ap == pytest.approx(1.0)


def test_false_alarms_count_in_an_image_without_faces_of_the_subset():
    other = "1--Handshaking/b"
    truth = truth_of((NAME, [FACE], [[1]] * 3), (other, [[50, 50, 9, 9]], [[0]] * 3))
    results = {NAME: rows((*HIT, 0.5), LOWEST), other: rows((*MISS, 1.0))}

    assert evaluate_results(truth, results).ap["hard"] == pytest.approx(0.5)


def test_detections_in_an_image_without_any_face_do_not_count_but_set_the_score_range():
    other = "1--Handshaking/b"
    truth = truth_of((NAME, [FACE], [[1]] * 3), (other, [], np.zeros((3, 0))))
    results = {NAME: rows((*HIT, 0.5), LOWEST), other: rows((*MISS, 1.0))}

    curve = evaluate_results(truth, results).curves["hard"]

    assert curve.ap == pytest.approx(1.0)
    assert curve.found.tolist() == [0] * 499 + [1] * 501  # 0.5 of 1.0: from threshold 0.500 on


def test_the_order_of_the_detections_does_not_matter():
    rng = np.random.default_rng(1)
    boxes = rng.integers(0, 40, (5, 4))
    truth = truth_of((NAME, boxes, np.ones((3, 5))))
    found = np.concatenate([rng.integers(0, 40, (40, 4)), rng.random((40, 1))], axis=1)

    ordered = evaluate_results(truth, {NAME: found[np.argsort(-found[:, 4])]})

    assert evaluate_results(truth, {NAME: rng.permutation(found)}).ap == ordered.ap


def test_equal_scores_are_one_operating_point():
    truth = truth_of((NAME, [FACE, [50, 50, 9, 9]], np.ones((3, 2))))

    ap = evaluate_results(truth, {NAME: rows((*HIT, 0.7), (*MISS, 0.7))}).ap["hard"]

    assert ap == pytest.approx(0.5 * 0.5)  # precision 0.5 at recall 0.5


def test_a_subset_without_faces_has_no_average_precision():
    truth = truth_of((NAME, [FACE], [[0], [1], [1]]))

    ap = evaluate_results(truth, {NAME: rows((*HIT, 1.0), LOWEST)}).ap

    assert math.isnan(ap["easy"])
    assert ap["hard"] == pytest.approx(1.0)


def test_missing_images_are_counted_and_the_first_is_named():
    truth = truth_of(*((f"0--Parade/{n}", [FACE], np.ones((3, 1))) for n in "abc"))

    with pytest.raises(InputFileError, match=r"2 of 3 images are missing, first 0--Parade/b;"):
        evaluate_results(truth, {"0--Parade/a": rows()})


@pytest.mark.parametrize(
    ("name", "what"), [("99--Foreign/a", "no such event"), ("0--Parade/zzz", "no such image")]
)
def test_results_of_something_else_are_refused_by_name(name, what):
    truth = truth_of((NAME, [FACE], np.ones((3, 1))))

    with pytest.raises(InputFileError, match=f"{name}: {what}"):
        evaluate_results(truth, {NAME: rows(), name: rows()})


@pytest.mark.parametrize("bad", [rows((1, 2, 3, 4, np.nan)), np.zeros((2, 4)), np.zeros(5)])
def test_detections_that_are_not_finite_rows_of_five_cannot_be_scored(bad, tmp_path):
    truth = truth_of((NAME, [FACE], np.ones((3, 1))))

    with pytest.raises(CheckFailed, match=NAME):
        evaluate_results(truth, {NAME: bad})
    with pytest.raises(CheckFailed, match=NAME):
        widerface_results.write_results({NAME: bad}, tmp_path)


# --- result files ------------------------------------------------------------------------------


def write_tree(folder, files):
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def write_zip(path, files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


LAYOUTS = {
    "events at the top": {"0--Parade/x.txt": GOOD},
    "a folder around the events": {"results/0--Parade/x.txt": GOOD},
    "notes beside the events": {"r/0--Parade/x.txt": GOOD, "r/README.txt": "hi", "a.txt": "hi"},
    "other files": {"0--Parade/x.txt": GOOD, "0--Parade/x.json": "{}", "r.csv": ""},
    "what macOS adds": {"r/0--Parade/x.txt": GOOD, "__MACOSX/r/0--Parade/._x.txt": b"\0\1"},
}


@pytest.mark.parametrize("files", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("archived", [False, True], ids=["folder", "zip"])
def test_results_are_found_in(files, archived, tmp_path):
    path = write_zip(tmp_path / "r.zip", files) if archived else write_tree(tmp_path, files)

    results = load_results(path)

    assert list(results) == ["0--Parade/x"]
    assert results["0--Parade/x"].tolist() == [[10, 10, 20, 20, 0.9], [1.5, 2, 3, 4, 0.25]]


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("Windows line ends", GOOD.replace("\n", "\r\n")),
        ("no line end at the end", GOOD.rstrip("\n")),
        ("empty lines", GOOD + "\n  \n"),
        ("spaces and tabs", GOOD.replace(" ", "\t ").replace("\n", " \n")),
        ("a name in another encoding", b"caf\xe9\x85.jpg\n" + GOOD.split("\n", 1)[1].encode()),
        ("exponents", GOOD.replace("0.25", "2.5e-1")),
    ],
)
def test_a_result_file_may_have(what, text, tmp_path):
    write_tree(tmp_path, {"0--Parade/x.txt": text})

    assert load_results(tmp_path)["0--Parade/x"][:, 4].tolist() == [0.9, 0.25], what


def test_an_image_without_detections_is_an_empty_list(tmp_path):
    write_tree(tmp_path, {"0--Parade/x.txt": "x.jpg\n0\n"})

    assert load_results(tmp_path)["0--Parade/x"].shape == (0, 5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "x.txt, line 2: the number of detections is missing"),
        ("x.jpg\n", "x.txt, line 2: the number of detections is missing"),
        ("x.jpg\nmany\n", "x.txt, line 2: the number of detections is missing"),
        ("x.jpg\n2\n1 2 3 4 0.5\n", "x.txt, line 2: 2 detections announced, 1 follow"),
        ("x.jpg\n0\n1 2 3 4 0.5\n", "x.txt, line 2: 0 detections announced, 1 follow"),
        ("x.jpg\n2\n1 2 3 4 0.5\n1 2 3 4 nan\n", "x.txt, line 4: '1 2 3 4 nan' is not five"),
        ("x.jpg\n1\n1 2 inf 4 0.5\n", "x.txt, line 3: '1 2 inf 4 0.5' is not five finite"),
        ("x.jpg\n1\n\n1 2 x 4 0.5\n", "x.txt, line 4: '1 2 x 4 0.5' is not five finite"),
        ("x.jpg\n1\n1 2 3 4\n", "x.txt, line 3: '1 2 3 4' is not five finite"),
        ("x.jpg\n2\n1 2 3 4\n1 2 3 4 5 6\n", "x.txt, line 3: '1 2 3 4' is not five finite"),
        (b"\xff\xfex\0.\0j\0", "x.txt, line 2: the number of detections is missing"),
    ],
)
def test_a_bad_result_file_is_refused_with_its_line(text, message, tmp_path):
    write_tree(tmp_path, {"0--Parade/ok.txt": GOOD, "0--Parade/x.txt": text})

    with pytest.raises(InputFileError) as caught:
        load_results(tmp_path)

    assert message in str(caught.value)


@pytest.mark.parametrize("files", [{}, {"x.txt": GOOD}, {"0--Parade/x.csv": GOOD}])
@pytest.mark.parametrize("archived", [False, True], ids=["folder", "zip"])
def test_a_place_without_result_files_is_refused(files, archived, tmp_path):
    path = write_zip(tmp_path / "r.zip", files) if archived else write_tree(tmp_path, files)

    with pytest.raises(InputFileError, match="no result files here"):
        load_results(path)


def test_two_files_for_one_image_are_refused(tmp_path):
    write_tree(tmp_path, {"a/0--Parade/x.txt": GOOD, "b/0--Parade/x.txt": GOOD})

    with pytest.raises(InputFileError, match="two result files for 0--Parade/x"):
        load_results(tmp_path)


def test_a_path_that_is_no_folder_and_no_readable_archive_is_refused(tmp_path):
    damaged = write_zip(tmp_path / "damaged.zip", {"0--Parade/x.txt": GOOD * 50})
    content = bytearray(damaged.read_bytes())
    content[60:80] = bytes(20)
    damaged.write_bytes(content)
    (tmp_path / "text.zip").write_text("not an archive")

    for name, message in [("none", "no such"), ("text.zip", "not a rea"), ("damaged.zip", "not a")]:
        with pytest.raises(InputFileError, match=message):
            load_results(tmp_path / name)


def test_written_results_read_back_exactly_and_highest_score_first(tmp_path):
    rng = np.random.default_rng(2)
    results = {NAME: rng.random((9, 5), np.float32), "1--Handshaking/b": rows()}

    widerface_results.write_results(results, tmp_path)

    back = load_results(tmp_path)
    ordered = results[NAME][np.argsort(-results[NAME][:, 4])]
    assert np.array_equal(back[NAME], ordered.astype(np.float64))
    assert back["1--Handshaking/b"].shape == (0, 5)


def test_written_results_have_the_standard_layout(tmp_path):
    widerface_results.write_results({NAME: rows((1, 2.5, 3, 4, 0.25), (5, 6, 7, 8, 0.5))}, tmp_path)

    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert written == [tmp_path / f"{NAME}.txt"]
    expected = f"{NAME}.jpg\n2\n5.0 6.0 7.0 8.0 0.5\n1.0 2.5 3.0 4.0 0.25\n"
    assert written[0].read_bytes() == expected.encode()


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    widerface_results.write_results({NAME: rows()}, tmp_path)
    before = (tmp_path / f"{NAME}.txt").read_bytes()

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OutputError, match="No space left"):
        widerface_results.write_results({NAME: rows((1, 2, 3, 4, 0.5))}, tmp_path)

    assert [p.name for p in (tmp_path / NAME).parent.iterdir()] == [f"{NAME.split('/')[1]}.txt"]
    assert (tmp_path / f"{NAME}.txt").read_bytes() == before


def test_results_cannot_be_written_into_a_file(tmp_path):
    (tmp_path / "out").write_text("")

    with pytest.raises(OutputError, match="cannot be written"):
        widerface_results.write_results({NAME: rows()}, tmp_path / "out")


# --- ground truth ------------------------------------------------------------------------------


def cell(items):
    """A column of Matlab cells."""
    column = np.empty((len(items), 1), object)
    for number, item in enumerate(items):
        column[number, 0] = item
    return column


def save_truth(folder, images=("a", "b"), indices=((1, 2), ())):
    """Two images of one event; the first has two faces."""
    from scipy.io import savemat

    folder.mkdir(parents=True, exist_ok=True)
    common = {
        "event_list": cell(["0--Parade"]),
        "file_list": cell([cell(list(images))]),
        "face_bbx_list": cell([cell([np.array([[1, 2, 3, 4], [5, 6, 7, 8]]), np.zeros((0, 4))])]),
    }
    savemat(folder / "wider_face_val.mat", common)
    for subset in widerface_truth.SUBSETS:
        lists = cell([cell([np.array(i, np.uint8).reshape(-1, 1) for i in indices])])
        savemat(folder / f"wider_{subset}_val.mat", {**common, "gt_list": lists})
    return folder


@pytest.mark.sampled(3)
@pytest.mark.parametrize("where", ["", "ground_truth", "eval_tools/ground_truth"])
def test_the_ground_truth_is_found_where_people_unpack_it(where, tmp_path):
    save_truth(tmp_path / where, indices=((2,), ()))

    truth = widerface_truth.load_ground_truth(tmp_path)

    assert truth.names == ("0--Parade/a", "0--Parade/b")
    assert truth.images[0].boxes.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert truth.images[0].counts.tolist() == [[False, True]] * 3
    assert truth.images[1].boxes.shape == (0, 4)


def test_the_list_of_faces_may_lie_in_the_folder_of_the_split(tmp_path):
    save_truth(tmp_path / "eval_tools/ground_truth")
    (tmp_path / "wider_face_split").mkdir()
    name = "wider_face_val.mat"
    (tmp_path / "eval_tools/ground_truth" / name).rename(tmp_path / "wider_face_split" / name)

    assert len(widerface_truth.load_ground_truth(tmp_path).images) == 2


def test_a_missing_ground_truth_file_is_named(tmp_path):
    (save_truth(tmp_path) / "wider_hard_val.mat").unlink()

    with pytest.raises(InputFileError, match=r"wider_hard_val.mat is not here; unpack"):
        widerface_truth.load_ground_truth(tmp_path)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", ["wider_face_val.mat", "wider_medium_val.mat"])
@pytest.mark.parametrize(
    "damage", [lambda b: b"", lambda b: b[:200], lambda b: b"\0" * len(b), lambda b: b"text\n" * 99]
)
def test_a_damaged_ground_truth_file_is_named(name, damage, tmp_path):
    path = save_truth(tmp_path) / name
    path.write_bytes(damage(path.read_bytes()))

    with pytest.raises(InputFileError, match=f"{name}: not a WIDER FACE ground truth file"):
        widerface_truth.load_ground_truth(tmp_path)


def test_a_mat_file_of_something_else_is_refused(tmp_path):
    from scipy.io import savemat

    savemat(save_truth(tmp_path) / "wider_face_val.mat", {"something": np.eye(3)})

    with pytest.raises(InputFileError, match=r"wider_face_val.mat: not a WIDER FACE"):
        widerface_truth.load_ground_truth(tmp_path)


@pytest.mark.sampled(3)
@pytest.mark.parametrize("indices", [((3,), ()), ((0,), ()), ((1,), (1,))])
def test_a_subset_that_names_a_face_that_is_not_there_is_refused(indices, tmp_path):
    save_truth(tmp_path, indices=indices)

    with pytest.raises(InputFileError, match="names a face that is not in"):
        widerface_truth.load_ground_truth(tmp_path)


def test_a_subset_of_other_images_is_refused(tmp_path):
    save_truth(tmp_path)
    save_truth(tmp_path / "other", images=("a", "c"))
    (tmp_path / "other/wider_hard_val.mat").replace(tmp_path / "wider_hard_val.mat")

    with pytest.raises(InputFileError, match=r"wider_hard_val.mat: .*lists other images"):
        widerface_truth.load_ground_truth(tmp_path)


@pytest.mark.parametrize("where", ["WIDER_val/images", "images", "."])
def test_the_images_are_found_where_people_unpack_them(where, tmp_path):
    write_tree(tmp_path / where, {"0--Parade/x.jpg": b""})

    assert widerface_images.find_events(tmp_path) == tmp_path / where


def test_missing_images_of_the_data_set_are_an_error(tmp_path):
    with pytest.raises(InputFileError, match="images are not here"):
        widerface_images.find_events(tmp_path)


# --- pre-processing ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image", "mode", "multiple", "resized", "padded"),
    [
        ((480, 640), 0, 32, (480, 640), (640, 640)),
        ((1385, 1024), 0, 32, (640, 473), (640, 640)),  # 473.18
        ((1024, 683), 0, 128, (640, 427), (640, 640)),  # 426.875 is rounded, not cut
        ((100, 50), 0, 32, (640, 320), (640, 640)),  # small images grow
        ((1385, 1024), 320, 32, (320, 237), (320, 320)),  # 236.59
        ((768, 1024), 1, 32, (1100, 1467), (1120, 1664)),  # the short side limits: 1466.7
        ((1024, 768), 1, 32, (1467, 1100), (1664, 1120)),
        ((500, 1024), 1, 32, (806, 1650), (1120, 1664)),  # the long side limits: 805.7
        ((683, 1024), 2, 32, (683, 1024), (704, 1024)),
        ((683, 1024), 2, 128, (683, 1024), (768, 1024)),
        ((1, 2000), 0, 32, (1, 640), (640, 640)),  # 0.32 would vanish
    ],
)
def test_the_published_geometry(image, mode, multiple, resized, padded):
    geometry = widerface_images.eval_geometry(image, mode, multiple)

    assert (geometry.resized, geometry.padded) == (resized, padded)
    assert geometry.scale == (resized[0] / image[0], resized[1] / image[1])


@pytest.mark.parametrize(
    ("mode", "multiple", "message"),
    [
        (650, 32, "take 640 or 672"),
        (640 + 32, 128, "take 640 or 768"),
        (16, 32, "take 32"),  # 640 in the published script, which nobody means by it
        (31, 32, "take 32"),
        (-1, 32, "Mode -1 is unknown"),
    ],
)
def test_an_impossible_mode_is_refused_with_the_next_possible_one(mode, multiple, message):
    with pytest.raises(UsageError, match=message):
        widerface_images.eval_geometry((480, 640), mode, multiple)


@pytest.mark.parametrize(
    ("text", "mode"), [("vga", 0), ("Original", 2), ("640", 640), ("0", 0), ("2", 2)]
)
def test_a_mode_has_a_name_or_a_number(text, mode):
    assert widerface_images.parse_mode(text) == mode


@pytest.mark.parametrize("text", ["", "-1", "big", "6.5"])
def test_an_unknown_mode_is_refused(text):
    with pytest.raises(UsageError, match="is unknown"):
        widerface_images.parse_mode(text)


def test_an_image_becomes_normalised_rgb_with_grey_padding():
    image = np.zeros((40, 64, 3), np.uint8)
    image[:] = (255, 127, 0)  # blue, green, red

    tensor, geometry = widerface_images.prepare(image, STANDARD, widerface_images.ORIGINAL)

    assert (tensor.shape, tensor.dtype) == ((1, 3, 64, 64), np.float32)
    assert tensor[0, :, 0, 0].tolist() == [-127.5 / 128, -0.5 / 128, 127.5 / 128]
    assert (tensor[:, :, :40] == tensor[:, :, :1, :1]).all()
    assert (tensor[:, :, 40:] == 0).all()
    assert geometry.resized == (40, 64)


def test_boxes_return_to_the_image_with_a_scale_for_each_axis():
    geometry = widerface_images.eval_geometry((1385, 1024))  # 640 x 473: scales 0.46209 and 0.46191
    boxes = np.array([[47.3, 64, 236.5, 320], [-5, -5, 600, 700]], np.float32)

    restored = widerface_images.restore(boxes, geometry)

    assert restored.dtype == np.float32
    expected = [[102.4, 138.5, 512, 692.5], [0, 0, 1024, 1385]]
    np.testing.assert_allclose(restored, expected, rtol=1e-6)
