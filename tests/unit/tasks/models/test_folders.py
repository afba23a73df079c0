"""From a folder and a table of labels to a golden set: every bad row is one clear sentence."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import wavfile

from infra.errors import BadInput
from tasks.metrics.custom.labels import read_array
from tasks.models.folders.build import golden_of, pool_of, read_folder, write_whole
from tasks.models.golden import read_golden
from tasks.preprocess.decoding import decode_image


def picture(pixels: Any, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(pixels)).save(buffer, kind, **options)
    return buffer.getvalue()


def sound(rate: int, samples: Any) -> bytes:
    buffer = io.BytesIO()
    wavfile.write(buffer, rate, np.asarray(samples))
    return buffer.getvalue()


def array(values: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=True)
    return buffer.getvalue()


def arrays(**values: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **values)
    return buffer.getvalue()


RED = np.full((4, 6, 3), (255, 0, 0), np.uint8)
PNG = picture(RED)


def written(folder: Path, table: str, name: str = "labels.csv", **files: bytes) -> Path:
    """Write files (a__b.png is a/b.png) and the table."""
    for path, data in files.items():
        place = folder / path.replace("__", "/").replace("_DOT_", ".")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    (folder / name).write_text(table, encoding="utf-8")
    return folder / name


def test_nested_folders_texts_of_several_lines_and_labels_of_all_kinds(tmp_path: Path) -> None:
    pictures = {f"de__{n}_DOT_png": picture(RED + np.uint8(n)) for n in range(3)}
    mask = {"masks__0_DOT_png": picture(np.eye(4, dtype=np.uint8) * 255)}
    table = written(
        tmp_path,
        'file, label, label_file\nde/0.png,,masks/0.png\nde/1.png,"two\nlines, quoted",\n\n'
        "de/2.png,,\n",
        **pictures,
        **mask,
        unnamed_DOT_png=PNG,
    )
    read = read_folder(tmp_path, table)
    assert (len(read.files), read.labelled, read.unnamed) == (3, 2, 1)
    first, second, third = read_golden(golden_of(read.files), None, where="it").cases
    assert read_array(first.label or "").shape == (4, 4)
    assert (second.label, third.label) == ("two\nlines, quoted", None)
    assert pool_of(read.files)


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("l.csv", "file,label,language\na.png,7,de\n"),
        ("l.tsv", "file\tlabel\tlanguage\na.png\t7\tde\n"),
        ("l.jsonl", '{"file": "a.png", "label": 7, "language": "de"}\n'),
        ("L.JSONL", '\ufeff{"file": "a.png", "label": "7", "language": "de"}\r\n\r\n'),
    ],
)
def test_a_table_is_csv_tsv_or_json_lines(tmp_path: Path, name: str, table: str) -> None:
    (item,) = read_folder(tmp_path, written(tmp_path, table, name, a_DOT_png=PNG)).files
    assert (item.name, item.label, item.language) == ("a.png", "7", "de")


def test_zero_false_lists_and_objects_are_labels(tmp_path: Path) -> None:
    labels = [0, False, [1, 2], {"boxes": [], "labels": []}, "", None]
    lines = [json.dumps({"text": str(n), "label": label}) for n, label in enumerate(labels)]
    read = read_folder(tmp_path, written(tmp_path, "\n".join(lines), "l.jsonl"))
    assert [item.label for item in read.files] == [
        "0",
        "false",
        "[1, 2]",
        '{"boxes": [], "labels": []}',
        None,
        None,
    ]


@pytest.mark.parametrize(
    ("table", "why"),
    [
        ("", "has no rows"),
        ("file,label\n", "has no rows"),
        ("file;label\na.png;1\n", "the column 'file;label' is unknown; allowed are id, file"),
        ("file,file\na.png,a.png\n", "the column file stands there twice"),
        ("file,label\na.png,1,2\n", "row 1 has 3 fields and the header 2: put a field"),
        ("file,label\n,1\n", "row 1: give file or text"),
        ("file,text\na.png,b\n", "row 1: give file or text"),
        ("file,label,label_file\na.png,1,a.png\n", "row 1: give label or label_file"),
        ("file\nb.png\n", "row 1, b.png: it cannot be read: No such file"),
        ("file,label_file\na.png,b.png\n", "row 1, b.png: it cannot be read: No such file"),
        ("file\n../a.png\n", "row 1, ../a.png: the path leads out of"),
        ("file\n/etc/hostname\n", "row 1, /etc/hostname: the path leads out of"),
        ("file,label\na.png,1\na.png,2\n", "'a.png' stands in .*row 1 already, with another"),
        ("file,label\na.png,1\n./a.png,1\n", "row 2: the file 'a.png' stands in .*row 1 already:"),
        ("id,text\nx,one\nx,two\n", "row 2: the id 'x' stands in .*row 1 already"),
        ("text\nsame\nsame\n", "row 2: the text 'same' stands in .*row 1 already"),
        ("file,text\na.png,\n,b\n", "row 2 holds a text, and the first row image"),
    ],
)
def test_a_table_that_is_wrong_is_told_by_its_row(tmp_path: Path, table: str, why: str) -> None:
    with pytest.raises(BadInput, match=rf"^[^\n]*{why}[^\n]*$"):
        read_folder(tmp_path, written(tmp_path, table, a_DOT_png=PNG))


FRAMES = io.BytesIO()
Image.fromarray(RED).save(FRAMES, "TIFF", save_all=True, append_images=[Image.fromarray(RED // 2)])


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("a.png", b"", "the file is empty"),
        ("a.png", b"no image", "the image cannot be read: cannot identify"),
        ("a.png", PNG[:-30], "the image cannot be read"),
        ("a.tiff", FRAMES.getvalue(), "holds 2 pictures: give each a file of its own"),
        ("a.tiff", picture(np.ones((2, 2), np.float32), kind="TIFF"), "has float pixels"),
        ("a.tiff", picture(np.full((2, 2), 1 << 20, np.int32), kind="TIFF"), "pixels of 32 bits"),
        ("a.wav", b"RIFF, but no sound", "the sound is no WAV file"),
        ("a.wav", sound(8000, np.zeros(0, np.int16)), "the sound is"),
        ("a.mp3", b"ID3", "this is no image, .wav, .npy, .npz or .txt file: convert it"),
        ("a.txt", b"\xff\xfe\x00", "the text is not in UTF-8"),
        ("a.txt", b" \n", "the text is empty"),
        ("a.npy", b"nothing", "it is no .npy file of an array"),
        ("a.npy", array(np.array(["a"])), "its array holds <U1, not numbers"),
        ("a.npy", array(np.array([{}], object)), "it is no .npy file of an array"),
        ("a.npy", array(np.array([1.0, np.nan])), "it holds NaN or infinity"),
        ("a.npy", array(np.array([2**40 + 1])), "its int64 numbers do not fit float32"),
        ("a.npz", arrays(x=np.array(["a"])), "its array x holds <U1, not numbers"),
        ("a.npz", arrays(x=np.array([np.inf])), "it holds NaN or infinity"),
        ("a.npz", b"PK", "it is no .npz file of arrays"),
    ],
)
def test_a_file_that_cannot_be_read_is_told_by_row_and_name(
    tmp_path: Path, name: str, data: bytes, why: str
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(BadInput, match=rf"^[^\n]*row 1, {name}: [^\n]*{why}[^\n]*$"):
        read_folder(tmp_path, written(tmp_path, f"file\n{name}\n"))


def test_nothing_is_written_for_a_folder_that_cannot_be_read(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from flows.cli import app

    output = tmp_path / "golden.parquet"
    output.write_bytes(b"as before")
    table = written(tmp_path, "file\na.png\nb.png\n", a_DOT_png=PNG)
    words = ("golden", "build", str(tmp_path), "--labels", str(table), "--output", str(output))
    done = CliRunner().invoke(app, words)
    assert done.exit_code != 0
    assert output.read_bytes() == b"as before"
    with pytest.raises(BadInput, match="cannot be written: No such file or directory"):
        write_whole(tmp_path / "nowhere" / "golden.parquet", b"")
    with pytest.raises(BadInput, match="is no folder"):
        read_folder(tmp_path / "nowhere", table)
    assert not list(tmp_path.glob(".*"))


GRAY = np.array([[0, 128], [255, 64]], np.uint8)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (picture(GRAY), GRAY),
        (picture(GRAY.astype(np.uint16) * 257), GRAY),
        (picture(np.dstack([GRAY, GRAY, GRAY, np.full_like(GRAY, 255)])), GRAY),
        (picture(np.dstack([GRAY, GRAY, GRAY, np.zeros_like(GRAY)])), np.full_like(GRAY, 255)),
        (picture(GRAY > 100), np.where(GRAY > 100, 255, 0)),
    ],
    ids=["gray", "16 bits", "opaque", "transparent", "one bit"],
)
def test_pictures_of_every_kind_become_what_a_person_sees(data: bytes, expected: Any) -> None:
    pixels = decode_image(data, "RGB")
    assert (pixels.shape, pixels.dtype) == ((2, 2, 3), np.uint8)
    assert pixels[..., 1].tolist() == np.asarray(expected).tolist()


def test_a_palette_and_a_turned_photograph_become_what_a_person_sees() -> None:
    buffer = io.BytesIO()
    Image.fromarray(RED).convert("P").save(buffer, "PNG", transparency=0)
    assert decode_image(buffer.getvalue(), "RGB").tolist() == RED.tolist()
    exif = Image.Exif()
    exif[0x0112] = 6  # a camera held upright
    wide = np.zeros((2, 6, 3), np.uint8)
    wide[:, :3] = 250
    pixels = decode_image(picture(wide, kind="PNG", exif=exif), "RGB")
    assert pixels.shape == (6, 2, 3)
    assert pixels[0, 0, 0] == 250
