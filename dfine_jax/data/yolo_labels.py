"""Which label file belongs to which picture of a YOLO data set."""

from collections.abc import Sequence
from functools import cache, cached_property
from pathlib import Path

from dfine_jax.data.folders import PICTURE_FOLDERS, below, child, files_in
from dfine_jax.data.references import PictureIndex, fold, grouped, nearest, without_prefix
from dfine_jax.data.samples import Findings, ProblemKind
from dfine_jax.data.texts import rows
from dfine_jax.data.values import some
from dfine_jax.data.yolo_rows import parse_row

LABEL_FOLDERS = ("labels", "label", "txt", "annotations")


class LabelFiles:
    """Finds the label files of pictures.

    Those of `.../images/a/b.jpg` are in `.../labels/a/b.txt`, whatever the case of the folders' names, else beside the
    picture. Where no picture of a folder has its file there, it is one of that name that lies elsewhere, but is neither
    another picture's nor in the folder of another split.
    """

    def __init__(self, index: PictureIndex):
        self._index = index
        self.folders_of = cache(label_folders)
        self._names = cache(lambda folder: frozenset(path.name for path in files_in(folder, [".txt"])))

    def of(self, pictures: Sequence[Path], findings: Findings) -> list[Path | None]:
        """The label file of each picture of a part; files that belong to none become problems."""
        files = [self._exact(picture) for picture in pictures]
        moved = 0
        # Where labels are in place, pictures without any have none.
        in_place = {home(picture) for picture, file in zip(pictures, files, strict=True) if file is not None}
        if any(file is None for file in files):
            for place, picture in enumerate(pictures):
                if files[place] is None and home(picture) not in in_place and (found := self._alike(picture)):
                    files[place] = found
                    moved += 1
        if moved:
            such = next(file for file, exact in zip(files, map(self._exact, pictures), strict=True) if file != exact)
            findings.remark(
                f"label files found by name alone, for {moved:,} of {len(files):,} pictures, such as {such}"
            )
        self._report(pictures, files, findings)
        return files

    def _exact(self, picture: Path) -> Path | None:
        for folder in self.folders_of(picture.parent):
            names = self._names(folder)
            for name in (f"{picture.stem}.txt", f"{picture.name}.txt"):
                if name in names:
                    return folder / name
        return None

    def _alike(self, picture: Path) -> Path | None:
        stem = fold(picture.stem)
        for found in (
            self._free_by_stem.get(stem, ()),
            self._free_by_stem.get(without_prefix(stem), ()),
            self._free_by_bare_stem.get(stem, ()),
        ):
            here = [file for file in found if self._index.same_part(file, picture.parent)]
            if len(files := nearest(here, picture.parts)) == 1:
                return files[0]
        return None

    @cached_property
    def _free(self) -> list[Path]:
        """Label files of the data set that no picture has where its labels should be."""
        taken = {self._exact(picture) for picture in self._index.pictures}
        texts = (Path(entry.path) for entry in below(self._index.root) if entry.name.lower().endswith(".txt"))
        return [path for path in sorted(texts) if path not in taken]

    @cached_property
    def _free_by_stem(self) -> dict[str, list[Path]]:
        return grouped(self._free, lambda path: fold(path.stem))

    @cached_property
    def _free_by_bare_stem(self) -> dict[str, list[Path]]:
        return grouped(self._free, lambda path: without_prefix(fold(path.stem)))

    def _report(self, pictures: Sequence[Path], files: Sequence[Path | None], findings: Findings) -> None:
        """Says which label files belong to no picture, or where labels were looked for if there are none."""
        used = {file for file in files if file is not None}
        looked = {folder: None for picture in pictures for folder in self.folders_of(picture.parent)}
        homes = {*looked, *(file.parent for file in used)}
        unused = any(folder / name not in used for folder in homes for name in self._names(folder))
        for path in self._free if unused else ():
            if path.parent in homes and path not in used and is_label_file(path):
                message = "no picture takes these labels; left out"
                findings.add(ProblemKind.STRAY_LABELS, path, None, message)
        if pictures and not used:
            others = {path.parent: None for path in self._free if is_label_file(path)}
            elsewhere = f"; there are label files in {some(others, 2, 200)}" if others else ""
            findings.remark(f"no picture has a label file: looked in {some(looked, 2, 200)}{elsewhere}")


def home(picture: Path) -> Path:
    """The folder of pictures, such as `images`, that a picture is in, whatever folders are in it; else its own."""
    around = [folder for folder in picture.parents if folder.name.lower() in PICTURE_FOLDERS]
    return around[0] if around else picture.parent


def label_folders(pictures: Path) -> list[Path]:
    """Where the labels of a folder's pictures may be, the likeliest first."""
    parts = pictures.parts
    for place in reversed(range(len(parts))):
        if parts[place].lower() in PICTURE_FOLDERS:
            beside = Path(*parts[:place])
            labels = child(beside, *LABEL_FOLDERS) or beside / "labels"
            return [labels.joinpath(*parts[place + 1 :]), pictures]
    labels = child(pictures, *LABEL_FOLDERS)
    return [pictures] if labels is None else [pictures, labels]


def is_label_file(path: Path) -> bool:
    """Whether the first row of a file is a label."""
    try:
        _, first = next(rows(path), (0, ""))
        parse_row(first)
    except (OSError, ValueError):
        return False
    return True
