import json

import pytest
from tiny import HEIGHT, WIDTH, tiny_model

from dfine_jax.cli.main import main
from dfine_jax.preprocessing import Preprocessing
from dfine_jax.pretrained import save_pretrained


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_pretrained(folder, tiny_model(), Preprocessing(HEIGHT, WIDTH))
    return str(folder)


@pytest.mark.slow
def test_table_and_file_hold_the_same_numbers(model, tmp_path, capsys):
    arguments = ["--model", model, "--batch-size", "1", "3", "--runs", "5", "--json", str(tmp_path / "speed.json")]
    assert main(["bench", *arguments]) == 0
    printed = capsys.readouterr().out
    found = json.loads((tmp_path / "speed.json").read_text())
    assert (found["model"], found["size"], found["dtype"], found["runs"]) == (model, f"{HEIGHT}x{WIDTH}", "float32", 5)
    one, three = found["results"]
    assert (one["batch_size"], three["batch_size"]) == (1, 3)
    assert three["memory_bytes"] > one["memory_bytes"] > 0
    for row in (one, three):
        assert 0 < row["p50_ms"] <= row["p90_ms"] <= row["p99_ms"]
        assert row["pictures_per_second"] == pytest.approx(1e3 * row["batch_size"] / row["p50_ms"], rel=0.01)
        assert f"{row['p50_ms']:.1f}" in printed
    assert three["gflops_a_picture"] == pytest.approx(one["gflops_a_picture"], rel=0.1)


@pytest.mark.slow
def test_it_says_which_type_it_measured(model, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("dfine_jax.machine.is_faster_in_bfloat16", lambda: False)
    monkeypatch.setattr("dfine_jax.cpu.half", lambda: None)
    arguments = ["--model", model, "--dtype", "bfloat16", "--runs", "1", "--json", str(tmp_path / "speed.json")]
    assert main(["bench", *arguments]) == 0
    printed = capsys.readouterr().out
    assert "isn't fastest at bfloat16: products are float32" in printed
    assert json.loads((tmp_path / "speed.json").read_text())["dtype"] == "float32"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--runs", "0"], "runs=0: give 1 or more"),
        (["--batch-size", "0"], "batch size 0"),
        (["--size", "100x96"], "both must be divisible by 32"),
    ],
)
def test_what_can_not_be_measured_is_one_line(model, capsys, arguments, message):
    assert main(["bench", "--model", model, *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
