"""Pictures are found, read as OpenCV deploys them, and brought to the models' input."""

import base64
import struct
import threading
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scrfdconv.checks.faces import images
from scrfdconv.checks.faces.images import (
    find_images,
    letterbox,
    network_input,
    normalise,
    read_image,
)
from scrfdconv.converters.errors import InputFileError
from scrfdconv.converters.normalization import STANDARD

# python -c "from PIL import Image; Image.new('CMYK', (8, 8), (0, 255, 255, 0)).save('red.jpg',
#   quality=95, optimize=True)": pure red in four inks.
CMYK_RED = base64.b64decode(
    "/9j/7gAOQWRvYmUAZAAAAAAA/9sAQwACAQEBAQECAQEBAgICAgIEAwICAgIFBAQDBAYFBgYGBQYGBgcJCAYHCQcGBggL"
    "CAkKCgoKCgYICwwLCgwJCgoK/8AAFAgACAAIBEMRAE0RAFkRAEsRAP/EABUAAQEAAAAAAAAAAAAAAAAAAAkK/8QAFBAB"
    "AAAAAAAAAAAAAAAAAAAAAP/aAA4EQwBNAFkASwAAPwB/E/6f8/j/2Q=="
)


@pytest.fixture(scope="module")
def photo():
    """A smooth picture with detail, 96x128, that JPEG keeps well."""
    y, x = np.mgrid[:96, :128]
    noise = np.random.default_rng(0).normal(0, 8, (96, 128))
    planes = [x * 1.5 + noise, y * 2 + noise, 255 - x - y * 0.5]
    return np.clip(np.stack(planes, axis=-1), 0, 255).astype(np.uint8)


def encoded(image, suffix, *options):
    done, data = cv2.imencode(suffix, image, list(options))
    assert done
    return data.tobytes()


def saved(folder, name, data):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def png_chunk(kind, payload):
    check = struct.pack(">I", zlib.crc32(kind + payload))
    return struct.pack(">I", len(payload)) + kind + payload + check


def png_of_size(width, height):
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    pixels = png_chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    return b"\x89PNG\r\n\x1a\n" + header + pixels + png_chunk(b"IEND", b"")


def with_app1(jpeg, payload):
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(payload) + 2) + payload + jpeg[2:]


def exif(orientation, thumbnail=b""):
    entry = struct.pack(">HHIHH", 0x0112, 3, 1, orientation, 0)
    return b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 1) + entry + struct.pack(">I", 0) + thumbnail


# --- find_images ---------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    for name in ("b.jpg", "a.PNG", "sub/c.jpeg", "sub/notes.txt", "sub/._c.jpeg", "photo[1].jpg"):
        saved(tmp_path, name, b"x")
    return tmp_path


def names(paths, root):
    return [path.relative_to(root).as_posix() for path in paths]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        pytest.param([""], ["a.PNG", "b.jpg", "photo[1].jpg", "sub/c.jpeg"], id="folder"),
        pytest.param(["sub"], ["sub/c.jpeg"], id="sub-folder"),
        pytest.param(["b.jpg"], ["b.jpg"], id="file"),
        pytest.param(["sub/notes.txt"], ["sub/notes.txt"], id="a named file has any suffix"),
        pytest.param(["*.jpg"], ["b.jpg", "photo[1].jpg"], id="glob"),
        pytest.param(["**/*.jpeg"], ["sub/c.jpeg"], id="recursive glob"),
        pytest.param(["s*"], ["sub/c.jpeg"], id="glob of folders"),
        pytest.param(["photo[1].jpg"], ["photo[1].jpg"], id="brackets in a file's name"),
        pytest.param(["b.jpg", "*.jpg", "", "sub/../b.jpg", "a.PNG"],
                     ["a.PNG", "b.jpg", "photo[1].jpg", "sub/c.jpeg"], id="each once"),
        pytest.param(["b.jpg", "a.PNG"], ["a.PNG", "b.jpg"], id="sorted"),
        pytest.param([], [], id="nothing asked"),
    ],
)  # fmt: skip
def test_files_folders_and_globs_become_a_sorted_list(folder, asked, found):
    assert names(find_images([folder / name for name in asked]), folder) == found
    assert names(find_images([f"{folder}/{name}" for name in asked]), folder) == found


def test_a_link_to_a_picture_counts_once(folder):
    (folder / "z.jpg").symlink_to(folder / "b.jpg")

    assert names(find_images([folder / "b.jpg", folder / "z.jpg"]), folder) == ["b.jpg"]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ("missing.jpg", "does not exist"),
        ("missing/", "does not exist"),
        ("*.bmp", "no file matches"),
        ("empty", "no picture in this folder"),
        ("b.jpg/a.jpg", "cannot be read"),
        ("bad\0name.jpg", "not a file name"),
    ],
)
def test_a_path_without_pictures_is_an_error_that_names_it(folder, asked, says):
    (folder / "empty").mkdir()

    with pytest.raises(InputFileError, match=says) as caught:
        find_images([folder / "b.jpg", f"{folder}/{asked}"])

    assert asked.rstrip("/") in str(caught.value).replace("\\x00", "\0")


def test_a_folder_that_may_not_be_listed_is_an_error(folder, monkeypatch):
    def walk(top, onerror):
        onerror(PermissionError(13, "Permission denied", str(top)))
        yield from ()

    monkeypatch.setattr(images.os, "walk", walk)

    with pytest.raises(InputFileError, match="no permission"):
        find_images([folder])


# --- read_image ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["photo.png", "Фото 写真 é.png", "photo [1].png", "no suffix"])
def test_a_lossless_picture_is_read_to_the_bit(tmp_path, photo, name):
    path = saved(tmp_path, name, encoded(photo, ".png"))

    assert np.array_equal(read_image(path), photo)
    assert np.array_equal(read_image(str(path)), photo)


@pytest.mark.parametrize("suffix", [".jpg", ".bmp", ".webp", ".tiff", ".ppm", ".jp2"])
def test_the_usual_formats_are_read_as_opencv_reads_them(tmp_path, photo, suffix):
    path = saved(tmp_path, f"photo{suffix}", encoded(photo, suffix))

    image = read_image(path)

    assert image.dtype == np.uint8
    assert np.array_equal(image, cv2.imread(str(path), cv2.IMREAD_COLOR))


def test_grey_becomes_three_equal_channels(tmp_path, photo):
    path = saved(tmp_path, "grey.png", encoded(photo[..., 0], ".png"))

    assert np.array_equal(read_image(path), np.repeat(photo[..., :1], 3, axis=2))


def test_16_bit_keeps_the_upper_8(tmp_path, photo):
    path = saved(tmp_path, "deep.png", encoded(photo.astype(np.uint16) * 256 + 17, ".png"))

    assert np.array_equal(read_image(path), photo)


def test_transparency_is_dropped_and_not_composited(tmp_path, photo):
    clear = np.dstack([photo, np.zeros(photo.shape[:2], np.uint8)])

    assert np.array_equal(read_image(saved(tmp_path, "a.png", encoded(clear, ".png"))), photo)


def test_cmyk_is_converted(tmp_path):
    blue, green, red = read_image(saved(tmp_path, "cmyk.jpg", CMYK_RED))[4, 4].astype(int)

    assert red > 250
    assert max(blue, green) < 5


@pytest.mark.parametrize(
    ("orientation", "stored"),
    [
        (1, lambda upright: upright),
        (2, np.fliplr),
        (3, lambda upright: np.rot90(upright, 2)),
        (4, np.flipud),
        (5, lambda upright: np.swapaxes(upright, 0, 1)),
        (6, lambda upright: np.rot90(upright, 1)),  # to be turned clockwise
        (7, lambda upright: np.swapaxes(np.rot90(upright, 2), 0, 1)),
        (8, lambda upright: np.rot90(upright, -1)),
    ],
)
def test_every_exif_orientation_comes_out_upright(tmp_path, photo, orientation, stored):
    jpeg = encoded(np.ascontiguousarray(stored(photo)), ".jpg", cv2.IMWRITE_JPEG_QUALITY, 100)

    image = read_image(saved(tmp_path, "turned.jpg", with_app1(jpeg, exif(orientation))))

    assert image.shape == photo.shape
    assert np.abs(image.astype(int) - photo).mean() < 4


WHOLE_JPEGS = {
    "baseline": [],
    "progressive": [cv2.IMWRITE_JPEG_PROGRESSIVE, 1],
    "restart markers": [cv2.IMWRITE_JPEG_RST_INTERVAL, 3],
}


@pytest.mark.parametrize("options", WHOLE_JPEGS.values(), ids=WHOLE_JPEGS)
def test_a_jpeg_that_was_cut_anywhere_is_an_error_and_never_half_a_picture(
    tmp_path, photo, options
):
    jpeg = encoded(photo, ".jpg", *options)
    read_image(saved(tmp_path, "whole.jpg", jpeg))

    for length in [*range(1, len(jpeg) - 2, 41), len(jpeg) - 2, len(jpeg) - 1]:
        with pytest.raises(InputFileError, match=r"cut\.jpg"):
            read_image(saved(tmp_path, "cut.jpg", jpeg[:length]))


DAMAGED_JPEGS = {
    "end of the file is zero": lambda jpeg: jpeg[: len(jpeg) // 2] + bytes(len(jpeg) // 2),
    "cut, and closed again": lambda jpeg: jpeg[: len(jpeg) // 2] + b"\xff\xd9",
    "cut, thumbnail whole": lambda jpeg: with_app1(jpeg, exif(1, jpeg))[: len(jpeg) * 3 // 2],
}


@pytest.mark.parametrize("damage", DAMAGED_JPEGS.values(), ids=DAMAGED_JPEGS)
def test_a_damaged_jpeg_is_an_error(tmp_path, photo, damage):
    with pytest.raises(InputFileError, match=r"bad\.jpg: the picture is damaged"):
        read_image(saved(tmp_path, "bad.jpg", damage(encoded(photo, ".jpg"))))


WHOLE_BUT_ODD_JPEGS = {
    "data behind the end": lambda jpeg: jpeg + b"MotionPhoto" * 9 + b"\xff\xd8",
    "a whole thumbnail": lambda jpeg: with_app1(jpeg, exif(1, jpeg)),
    "fill bytes": lambda jpeg: jpeg[:2] + b"\xff\xff" + jpeg[2:],
    "stray bytes before the end": lambda jpeg: jpeg[:-2] + b"abcde" + jpeg[-2:],
}


@pytest.mark.parametrize("change", WHOLE_BUT_ODD_JPEGS.values(), ids=WHOLE_BUT_ODD_JPEGS)
def test_what_cameras_add_to_a_jpeg_does_no_harm(tmp_path, photo, change, capfd):
    jpeg = encoded(photo, ".jpg")
    plain = read_image(saved(tmp_path, "plain.jpg", jpeg))

    image = read_image(saved(tmp_path, "odd.jpg", change(jpeg)))

    assert np.array_equal(image, plain)
    assert capfd.readouterr() == ("", "")


BAD_FILES = {
    "empty": (lambda photo: b"", "is empty"),
    "text": (lambda photo: b"not a picture\n" * 50, "not a picture"),
    "one byte": (lambda photo: b"\xff", "not a picture"),
    "JPEG start only": (lambda photo: b"\xff\xd8", "damaged"),
    "PNG start only": (lambda photo: b"\x89PNG\r\n\x1a\n", "damaged|not a picture"),
    "PNG cut": (lambda photo: encoded(photo, ".png")[:-400], "damaged|not a picture"),
    "PNG without end": (lambda photo: encoded(photo, ".png")[:-12], "damaged|not a picture"),
    "PNG flipped byte": (
        lambda photo: encoded(photo, ".png")[:200] + b"Z" * 9 + encoded(photo, ".png")[209:],
        "damaged|not a picture",
    ),
    "BMP cut": (lambda photo: encoded(photo, ".bmp")[:-400], "not a picture"),
    "TIFF cut": (lambda photo: encoded(photo, ".tiff")[:-400], "damaged|not a picture"),
    "WebP cut": (lambda photo: encoded(photo, ".webp")[:-400], "not a picture"),
    "PNG bomb": (lambda photo: png_of_size(30000, 30000), "30000x30000 pixels"),
    "larger PNG bomb": (lambda photo: png_of_size(2**31 - 1, 2**31 - 1), "pixels are more than"),
    "JPEG bomb": (
        lambda photo: encoded(photo, ".jpg").replace(
            struct.pack(">HH", 96, 128), b"\xff\xdc\xff\xdc", 1
        ),
        "65500x65500 pixels",
    ),
    "BMP bomb": (
        lambda photo: encoded(photo, ".bmp").replace(struct.pack("<ii", 128, 96), b"\0\0\1\0" * 2),
        "too large|not a picture",
    ),
}


@pytest.mark.parametrize(("data", "says"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_file_is_one_sentence_and_no_noise(tmp_path, photo, data, says, capfd):
    path = saved(tmp_path, "bad.jpg", data(photo))

    with pytest.raises(InputFileError, match=says) as caught:
        read_image(path)

    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_a_missing_picture_is_an_error(tmp_path):
    with pytest.raises(InputFileError, match="does not exist"):
        read_image(tmp_path / "missing.jpg")


def test_a_folder_is_no_picture(tmp_path):
    with pytest.raises(InputFileError, match="is a folder"):
        read_image(tmp_path)


def test_a_device_is_not_read_for_ever():
    if not Path("/dev/zero").exists():
        pytest.skip("this system has no /dev/zero")

    with pytest.raises(InputFileError, match="no regular file"):
        read_image("/dev/zero")


def test_a_picture_without_permission_is_an_error(tmp_path, photo, monkeypatch):
    # Tests may run as root, whom no mode keeps out.
    path = saved(tmp_path, "secret.png", encoded(photo, ".png"))
    denied = PermissionError(13, "Permission denied", str(path))
    monkeypatch.setattr(Path, "read_bytes", lambda self: (_ for _ in ()).throw(denied))

    with pytest.raises(InputFileError, match="no permission"):
        read_image(path)


def test_harmless_remarks_of_a_decoder_do_not_reach_the_user(tmp_path, photo, capfd):
    png = encoded(photo, ".png")
    broken_profile = png_chunk(b"iCCP", b"icc\0\0" + zlib.compress(b"x" * 400))

    image = read_image(saved(tmp_path, "p.png", png[:33] + broken_profile + png[33:]))

    assert np.array_equal(image, photo)
    assert capfd.readouterr() == ("", "")


def test_what_others_write_during_a_decoding_is_handed_on(tmp_path, photo, monkeypatch, capfd):
    path = saved(tmp_path, "p.png", encoded(photo, ".png"))

    def imdecode(data, flags, decode=cv2.imdecode):
        images.os.write(2, b"50 % done\n")
        return decode(data, flags)

    monkeypatch.setattr(cv2, "imdecode", imdecode)
    read_image(path)

    assert capfd.readouterr() == ("", "50 % done\n")


def test_threads_may_read_pictures_at_the_same_time(tmp_path, photo, capfd):
    good = saved(tmp_path, "good.png", encoded(photo, ".png"))
    bad = saved(tmp_path, "bad.png", encoded(photo, ".png")[:-400])
    wrong = []

    def read(path):
        for _ in range(20):
            try:
                fine = np.array_equal(read_image(path), photo)
            except InputFileError:
                fine = path == bad
            if not fine:
                wrong.append(path)

    threads = [threading.Thread(target=read, args=(path,)) for path in (good, bad) * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert not wrong
    assert capfd.readouterr() == ("", "")


def test_every_real_photograph_is_read(data):
    paths = find_images([data / "images"])

    assert len(paths) >= 40
    assert all(read_image(path).ndim == 3 for path in paths)


# --- letterbox and normalise ---------------------------------------------------------------


def letterbox_of_the_models_tool(image, size):
    """tools/scrfd.py, in its own words; its input_size is (width, height)."""
    input_size = (size[1], size[0])
    im_ratio = float(image.shape[0]) / image.shape[1]
    model_ratio = float(input_size[1]) / input_size[0]
    if im_ratio > model_ratio:
        new_height = input_size[1]
        new_width = int(new_height / im_ratio)
    else:
        new_width = input_size[0]
        new_height = int(new_width * im_ratio)
    det_img = np.zeros((input_size[1], input_size[0], 3), dtype=np.uint8)
    det_img[:new_height, :new_width, :] = cv2.resize(image, (new_width, new_height))
    return det_img, float(new_height) / image.shape[0]


SIDE = st.integers(20, 300)


@settings(deadline=None)
@given(st.tuples(SIDE, SIDE), st.sampled_from([(64, 64), (64, 96), (96, 64), (160, 160)]))
def test_letterboxing_is_that_of_the_models_tool(shape, size):
    image = np.random.default_rng(shape[0] * 1000 + shape[1]).integers(
        0, 256, (*shape, 3), dtype=np.uint8
    )

    canvas, scale = letterbox(image, size)
    expected, expected_scale = letterbox_of_the_models_tool(image, size)

    assert np.array_equal(canvas, expected)
    assert scale == expected_scale


@pytest.mark.parametrize(
    ("shape", "content", "scale"),
    [
        ((1, 1), (640, 640), 640),
        ((886, 1280), (443, 640), 0.5),
        ((1000, 999), (640, 639), 0.64),  # 639.36 is cut, not rounded up from 639.99
        ((20, 20000), (1, 640), 1 / 20),  # 0.64 would vanish
        ((20000, 20), (640, 1), 0.032),
        ((640, 640), (640, 640), 1),
    ],
)
def test_the_picture_is_scaled_to_fit_the_top_left(shape, content, scale):
    canvas, found = letterbox(np.full((*shape, 3), 200, np.uint8), (640, 640))

    assert canvas.shape == (640, 640, 3)
    assert found == pytest.approx(scale, abs=0)
    assert (canvas[: content[0], : content[1]] == 200).all()
    assert not canvas[content[0] :].any()
    assert not canvas[:, content[1] :].any()


def test_normalising_is_exact_for_every_value_and_turns_bgr_into_rgb():
    canvas = np.arange(256, dtype=np.uint8).reshape(16, 16, 1) + np.array([0, 1, 2], np.uint8)

    planes = normalise(canvas, STANDARD)

    exact = (canvas[..., ::-1].astype(np.float64) - 127.5) / 128
    assert planes.dtype == np.float32
    assert planes.flags.c_contiguous
    assert np.array_equal(planes, exact.transpose(2, 0, 1)[None])


def test_a_batch_is_normalised_like_its_pictures(photo):
    batch = np.stack([photo, photo[::-1]])

    planes = normalise(batch, STANDARD)

    assert planes.shape == (2, 3, 96, 128)
    assert np.array_equal(
        planes, np.concatenate([normalise(photo, STANDARD), normalise(photo[::-1], STANDARD)])
    )


@pytest.mark.parametrize("size", [(64, 64), (64, 96), (96, 64)])
def test_the_way_without_canvases_gives_the_same_bits(photo, size):
    pictures = [photo, np.ascontiguousarray(photo.transpose(1, 0, 2)), photo[:1], photo[:, :1]]

    planes, scales = network_input(pictures, size, STANDARD)

    canvases, expected = zip(*(letterbox(picture, size) for picture in pictures), strict=True)
    assert np.array_equal(planes, normalise(np.stack(canvases), STANDARD))
    assert planes.dtype == np.float32
    assert scales == list(expected)


def test_black_padding_is_minus_0_99609375():
    assert set(normalise(np.zeros((32, 32, 3), np.uint8), STANDARD).ravel()) == {-0.99609375}


# --- reading ahead -----------------------------------------------------------------------------


def test_pictures_that_are_read_ahead_keep_their_order_and_errors_their_place(tmp_path, photo):
    names = [f"{number}.png" for number in range(6)]
    paths = [saved(tmp_path, name, cv2.imencode(".png", photo + index)[1].tobytes())
             for index, name in enumerate(names)]  # fmt: skip
    paths[3].write_bytes(b"no picture")

    found = list(images.read_ahead(paths))

    assert [path for path, _ in found] == paths
    assert isinstance(found[3][1], InputFileError)
    for index in (0, 1, 2, 4, 5):
        np.testing.assert_array_equal(found[index][1], photo + index)


def test_no_more_than_a_few_pictures_are_read_ahead(monkeypatch):
    read = []
    monkeypatch.setattr(images, "read_image", read.append)

    for number, _ in enumerate(images.read_ahead(map(Path, "abcdefghij")), start=1):
        assert len(read) <= number + images.AHEAD

    assert len(read) == 10


def test_who_stops_early_reads_no_further(monkeypatch):
    read = []
    monkeypatch.setattr(images, "read_image", read.append)

    for _ in images.read_ahead(map(Path, "abcdefghij")):
        break

    assert len(read) <= 1 + images.AHEAD
