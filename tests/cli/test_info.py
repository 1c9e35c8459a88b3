import pytest
from tiny import HEIGHT, WIDTH, tiny_model

from dfine_jax.cli.main import main
from dfine_jax.preprocessing import Preprocessing
from dfine_jax.pretrained import save_pretrained

PAPER_GFLOPS = {"n": 7, "s": 25, "m": 57, "l": 91, "x": 202}


def test_sizes_have_the_published_numbers_of_parameters(capsys):
    assert main(["info"]) == 0
    printed = capsys.readouterr().out
    # The paper's 4, 10, 19, 31 and 62 million.
    for count in ("3,782,691", "10,321,875", "19,590,062", "31,289,846", "62,715,478"):
        assert count in printed


@pytest.mark.slow
def test_a_model_shows_its_classes_and_modules(tmp_path, capsys):
    save_pretrained(tmp_path / "tiny", tiny_model(), Preprocessing(HEIGHT, WIDTH))
    assert main(["info", "--model", str(tmp_path / "tiny"), "--depth", "4"]) == 0
    printed = capsys.readouterr().out
    for text in ("ant, bee, cat, dog, elk", f"{HEIGHT}x{WIDTH}", "stem1", "[3, 3, 3, 8]", "20 queries"):
        assert text in printed


def test_tree_shows_the_maps_of_a_picture(capsys):
    assert main(["info", "--model", "shapes", "--tree", "--size", "96x192"]) == 0
    lines = [line.strip(" │├└─") for line in capsys.readouterr().out.splitlines()]
    for line in (
        "DFine  3,736,323  -> 60x8, 60x4, 60",
        "backbone  1,862,668  -> 6x12x512, 3x6x1024",
        "encoder  707,816  -> 6x12x128, 3x6x128",
        "stem4  322  -> 24x48x16",
        "encoder_proj  16,512  -> 90x128",
    ):
        assert line in lines
    assert main(["info", "--model", "shapes"]) == 0
    assert "->" not in capsys.readouterr().out


@pytest.mark.parametrize("size", ["n", *(pytest.param(size, marks=pytest.mark.slow) for size in "smlx")])
@pytest.mark.usefixtures("optimised")
def test_operations_agree_with_the_paper(size, capsys):
    assert main(["info", "--model", size, "--depth", "0"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if "GFLOPs" in line)
    counted = float(line.split("operations")[1].split("GFLOPs")[0].strip(" │"))
    # Published rounded; and what is not a product, a few hundredths, each tool counts in its own way.
    assert counted == pytest.approx(PAPER_GFLOPS[size], abs=0.5 + 0.025 * PAPER_GFLOPS[size])
