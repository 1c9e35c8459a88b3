"""Pictures put together to a page."""

from collections.abc import Callable, Sequence

from PIL import Image

PAPER, INK = (250, 250, 248), (40, 42, 46)
GAP = 10


def page_of(tiles: Sequence[Image.Image], columns: int, tile: int, legend: Callable[[int], Image.Image]) -> Image.Image:
    """Puts pictures, no wider than ``tile``, into rows, and below them what ``legend`` makes for the rows' width."""
    columns = max(1, min(columns, len(tiles)))
    rows = [tiles[start : start + columns] for start in range(0, len(tiles), columns)]
    heights = [max(picture.height for picture in row) for row in rows]
    width = columns * (tile + GAP) + GAP
    below = legend(width)
    page = Image.new("RGB", (max(width, below.width), sum(heights) + (len(rows) + 1) * GAP + below.height), PAPER)
    top = GAP
    for row, height in zip(rows, heights, strict=True):
        for column, picture in enumerate(row):
            left = GAP + column * (tile + GAP) + (tile - picture.width) // 2
            page.paste(picture, (left, top + (height - picture.height) // 2))
        top += height + GAP
    page.paste(below, (0, top))
    return page
