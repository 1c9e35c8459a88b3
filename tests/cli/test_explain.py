import numpy as np
import pytest
from PIL import Image
from tiny import HEIGHT, WIDTH, tiny_model

from dfine_jax.cli.main import main
from dfine_jax.preprocessing import Preprocessing
from dfine_jax.pretrained import save_pretrained


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_pretrained(folder, tiny_model(), Preprocessing(HEIGHT, WIDTH))
    return str(folder)


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "cat [1].jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)).save(path)
    return path


@pytest.mark.slow
def test_a_page_for_each_and_the_numbers(model, picture, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["explain", str(picture), "--model", model, "--detections", "2", "--save", str(out)]
    for _ in range(2):  # an earlier run's pages are replaced
        assert main(arguments) == 0
        assert sorted(path.name for path in out.iterdir()) == ["cat [1]-1.png", "cat [1]-2.png", "cat [1].npz"]
    numbers = np.load(out / "cat [1].npz")
    assert numbers["boxes"].shape == (2, 4, 4)
    printed = capsys.readouterr().out
    for label, box in zip(numbers["labels"], numbers["boxes"][:, -1], strict=True):
        assert label in printed
        assert all(f"{edge:.1f} ±" in printed for edge in box)
    assert "cat [1].jpg  50x40" in printed


@pytest.mark.parametrize("name", ["cat [1]-2.png", "cat [1].npz"])
def test_files_of_others_stay(model, picture, tmp_path, capsys, name):
    (tmp_path / name).write_bytes(b"mine")
    arguments = ["explain", str(picture), "--model", model, "--save", str(tmp_path)]
    assert main(arguments) == 2
    assert f"{name} is there and isn't of an earlier run: choose another --save" in capsys.readouterr().err
    assert (tmp_path / name).read_bytes() == b"mine"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--detections", "0"], "--detections 0: give 1 to 100"),
        (["--detections", "1000000000"], "--detections 1000000000: give 1 to 100"),
        (["--save", "/proc/new"], "--save /proc/new: can't be written"),
        (["--size", "50x50"], "size 50x50 (height x width): both must be divisible by 32"),
    ],
)
def test_what_can_not_be_done_is_one_line(model, picture, capsys, arguments, says):
    assert main(["explain", str(picture), "--model", model, *arguments]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def test_one_picture_at_a_time(model, picture, tmp_path, capsys):
    Image.new("RGB", (9, 9)).save(tmp_path / "other.png")
    assert main(["explain", str(tmp_path), "--model", model]) == 2
    assert "are 2 pictures: give one, such as" in capsys.readouterr().err
