import io

import numpy as np
import pytest
from dataset_files import write_coco, write_picture
from PIL import Image
from rich.console import Console

from dfine_jax.cli import data as cli
from dfine_jax.data.contact_sheet import GAP, class_colour, contact_sheet
from dfine_jax.data.formats import open_dataset
from dfine_jax.data.report import Spread, report, same_pictures
from dfine_jax.data.samples import DataError, ProblemKind
from dfine_jax.data.shapes import shapes
from dfine_jax.data.write import write_dataset


def test_report_counts(tiny):
    found = report(tiny)
    assert (found.pictures, found.without_boxes, found.boxes, found.crowds) == (3, 1, 3, 1)
    assert found.widths == Spread(64, 64, 64)
    assert found.boxes_per_picture == Spread(0, 1, 2)
    assert found.box_sizes == (2, 1, 0)
    assert [tuple(entry) for entry in found.classes] == [("ant", 3, 1, 1), ("bee", 7, 1, 1), ("cow", 90, 1, 1)]
    assert found.problems == ()


def test_report_decodes_and_compares_every_picture(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "a.png")
    (tmp_path / "same.png").write_bytes((tmp_path / "a.png").read_bytes())
    write_picture(tmp_path / "b.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "a.png").read_bytes()[:3000])
    names = ["a.png", "same.png", "b.png", "cut.png"]
    read = open_dataset(
        write_coco(tmp_path / "x.json", images=[{"id": n, "file_name": name} for n, name in enumerate(names)]), None
    )
    found = {(problem.kind, problem.file.name) for problem in report(read).problems}
    assert found == {(ProblemKind.UNREADABLE_PICTURE, "cut.png"), (ProblemKind.DUPLICATE_PICTURE, "same.png")}


def test_pictures_shared_by_splits_are_found(tiny, tmp_path):
    for split in ("train", "test"):
        write_dataset(tiny, tmp_path, "voc", split)
    shared = same_pictures([open_dataset(tmp_path, "train"), open_dataset(tmp_path, "test")])
    assert [problem.file.name for problem in shared] == [f"test_00000{number}.png" for number in (1, 2, 3)]
    assert "the same picture as " in shared[0].message


def test_contact_sheet_draws_boxes_where_they_are(tiny):
    tile = 128  # pictures of 64 x 48 are shown at twice their size
    sheet = np.asarray(contact_sheet(tiny, 3, columns=3, tile=tile))
    assert sheet.shape[1] == 3 * tile + 4 * GAP
    first = sheet[GAP : GAP + 96, GAP : GAP + tile]
    for (left, top, right, bottom), label in zip(tiny.records[0].boxes * 2, (0, 2), strict=True):
        colour = class_colour(label)
        edges = [first[round(top), round((left + right) / 2)], first[round((top + bottom) / 2), round(right) - 1]]
        edges += [first[round(bottom) - 1, round(left) + 9], first[round(bottom) - 9, round(left)]]
        assert all(tuple(edge) == colour for edge in edges)


def test_contact_sheet_shows_every_class():
    dataset = shapes(60, size=32, seed=1)
    drawn = np.asarray(contact_sheet(dataset, 8, columns=4, tile=64))[: 2 * 64 + 2 * GAP].reshape(-1, 3)
    assert all((drawn == class_colour(label)).all(axis=1).any() for label in range(8))


def test_contact_sheet_passes_over_unreadable_pictures(tmp_path):
    write_picture(tmp_path / "a.png")
    write_picture(tmp_path / "b.png")
    images = [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}]
    read = open_dataset(write_coco(tmp_path / "x.json", images=images), None)
    (tmp_path / "a.png").write_bytes(b"")
    assert contact_sheet(read, 2, tile=64).width == 64 + 2 * GAP


def test_the_verb_prints_tables_problems_and_saves_the_page(tiny, tmp_path, monkeypatch):
    write_dataset(tiny, tmp_path / "set", "voc", "train")
    write_dataset(tiny, tmp_path / "set", "voc", "val")
    xml = tmp_path / "set/Annotations/val_000003.xml"
    xml.write_text(xml.read_text().replace("<xmax>64", "<xmax>0"))
    out = io.StringIO()
    monkeypatch.setattr(cli, "Console", lambda: Console(file=out, width=100))
    assert cli.run(str(tmp_path / "set"), sheet=tmp_path / "new/sheet.png", pictures=2) == 0
    text = out.getvalue()
    assert f"{tmp_path / 'set'} (voc), train" in text
    assert "3, 1 of them without boxes" in text
    assert f"{xml}:8: zero-size box: box [0, 0, 0, 48] has no area" in text
    assert "The same pictures in several parts, or twice in one: 3" in text
    assert Image.open(tmp_path / "new/sheet.png").width > 300
    with pytest.raises(DataError, match="no test split"):
        cli.run(str(tmp_path / "set"), split="test")


def test_the_verb_looks_at_some_of_what_is_drawn(monkeypatch):
    out = io.StringIO()
    monkeypatch.setattr(cli, "Console", lambda: Console(file=out, width=100))
    monkeypatch.setattr(cli, "DRAWN", 5)
    cli.run("shapes:size=32,count=40", split="val", pictures=0)
    assert "(shapes), val: the first 5 of 40" in out.getvalue()
