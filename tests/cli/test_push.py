"""``dfine push``: what is sent to a stand-in for the Hub, and one line where it can't be."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from huggingface_hub import constants
from tiny import tiny_model

from dfine_jax.cli.main import main
from dfine_jax.config import DECODER_ACTIVATIONS
from dfine_jax.model.dfine import variables
from dfine_jax.preprocessing import Preprocessing
from dfine_jax.pretrained import save_pretrained
from dfine_jax.weights.sources import open_model

AGENT_LIST = "/api/agent-harnesses"
"""A list that huggingface_hub fetches once a day for its user agent, without a token."""
SENT = ["README.md", "config.json", "model.safetensors", "preprocessor_config.json"]


class StandIn:
    """A Hub that takes one commit, or refuses with a status and a message at an address that ends so."""

    def __init__(self):
        self.asked, self.files, self.headers, self.refusals = [], {}, [], {}
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                hub.asked.append(self.path)
                if self.path != AGENT_LIST:
                    hub.headers.append(self.headers.get("Authorization"))
                status, answer = hub.answer(self.path, body)
                text = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                if status >= 400:
                    self.send_header("X-Error-Message", answer["error"])
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_POST  # noqa: N815

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, path, body):
        for end, (status, message) in self.refusals.items():
            if path.endswith(end):
                return status, {"error": message}
        if path.endswith("/api/repos/create"):
            self.made = json.loads(body)
            return 200, {"url": f"{self.address}/anna/cells", "id": "1", "name": "anna/cells"}
        if "/preupload/" in path:
            names = [file["path"] for file in json.loads(body)["files"]]
            return 200, {"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]}
        if "/commit/" in path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
                elif line["key"] == "header":
                    self.message = line["value"]["summary"]
            commit = f"{self.address}/anna/cells/commit/1"
            return 200, {"success": True, "commitOid": "1", "commitUrl": commit, "hookOutput": ""}
        if path.endswith("?expand=xetEnabled"):  # older clients ask how files are stored
            return 200, {"id": "anna/cells", "xetEnabled": False}
        if path == "/api/models/anna/cells":
            return 404, {"error": "Repository not found"}
        return 200, {"errors": [], "warnings": []}


@pytest.fixture
def hub(monkeypatch):
    stand_in = StandIn()
    monkeypatch.setattr(constants, "ENDPOINT", stand_in.address)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/nonexistent")
    yield stand_in
    stand_in.server.shutdown()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A converted folder."""
    path = tmp_path_factory.mktemp("made") / "tiny"
    save_pretrained(path, tiny_model(), Preprocessing(64, 96))
    return path


def push(capsys, *arguments):
    code = main(["push", *map(str, arguments)])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def written(hub, folder):
    """What was sent, as files."""
    folder.mkdir()
    for name, content in hub.files.items():
        (folder / name).write_bytes(content)
    return folder


def test_what_is_sent_is_loaded_here(hub, made, tmp_path, capsys):
    code, out, err = push(capsys, made, "anna/cells", "--token", "hf_secret", "--private", "--license", "mit")
    assert code == 0
    assert f"is at {hub.address}/anna/cells; dfine detect PICTURE --model anna/cells takes it" in out
    assert sorted(hub.files) == SENT
    assert set(hub.headers) == {"Bearer hf_secret"}
    assert "hf_secret" not in out + err
    assert (hub.made["name"], hub.made["organization"], hub.message) == ("cells", "anna", "Upload model")
    model = open_model(written(hub, tmp_path / "sent"))
    params, batch_stats = variables(tiny_model())
    for name, value in model.arrays():
        np.testing.assert_array_equal(value, {**params, **batch_stats}[name], err_msg=name)
    page = hub.files["README.md"].decode()
    assert page.startswith("---\n")
    for words in ("license: mit", "pipeline_tag: object-detection", "--model anna/cells", "`ant`, `bee`", "64 x 96"):
        assert words in page


@pytest.mark.parity
def test_what_is_sent_is_loaded_by_transformers(hub, made, tmp_path, capsys):
    transformers = pytest.importorskip("transformers")
    assert push(capsys, made, "anna/cells", "--token", "x")[0] == 0
    folder = written(hub, tmp_path / "sent")
    theirs, report = transformers.DFineForObjectDetection.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert theirs.config.id2label[4] == "elk"
    assert transformers.AutoImageProcessor.from_pretrained(folder).size["height"] == 64


def test_a_dry_run_sends_nothing_and_writes_what_would_be_sent(hub, made, tmp_path, capsys):
    code, out, _ = push(capsys, made, "anna/cells", "--dry-run", tmp_path / "look")
    assert code == 0
    assert hub.asked == []
    assert sorted(path.name for path in (tmp_path / "look").iterdir()) == SENT
    assert "nothing was sent" in out
    assert push(capsys, made, "anna/cells", "--token", "x")[0] == 0
    for name, content in hub.files.items():
        assert (tmp_path / "look" / name).read_bytes() == content


def test_a_dry_run_without_a_folder_takes_the_repositorys_name(made, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert push(capsys, made, "anna/cells", "--dry-run")[0] == 0
    assert (tmp_path / "cells" / "model.safetensors").is_file()
    code, _, err = push(capsys, made, "anna/cells", "--dry-run")
    assert code == 2
    assert "cells exists" in err


def test_a_page_that_is_there_and_thresholds_go_along(hub, tmp_path, capsys):
    save_pretrained(tmp_path / "tiny", tiny_model(), Preprocessing(64, 96))
    (tmp_path / "tiny" / "README.md").write_text('# Mine\n\n`from_pretrained("THIS_FOLDER")`\n')
    thresholds = '{"all": {"threshold": 0.3, "f1": 1, "precision": 1, "recall": 1, "boxes": 9}, "classes": {}}'
    (tmp_path / "tiny" / "thresholds.json").write_text(thresholds)
    assert push(capsys, tmp_path / "tiny", "anna/cells", "--token", "x")[0] == 0
    page = hub.files["README.md"].decode()
    assert page.startswith("---\n")
    assert page.endswith('---\n\n# Mine\n\n`from_pretrained("anna/cells")`\n')
    assert hub.files["thresholds.json"].decode() == thresholds
    (tmp_path / "tiny" / "README.md").write_text("---\nlicense: mit\n---\n# Facts are there\n")
    assert push(capsys, tmp_path / "tiny", "anna/cells", "--token", "x")[0] == 0
    assert hub.files["README.md"].decode() == "---\nlicense: mit\n---\n# Facts are there\n"


def test_a_branch_is_made(hub, made, capsys):
    assert push(capsys, made, "anna/cells", "--token", "x", "--revision", "v2")[0] == 0
    assert "/api/models/anna/cells/branch/v2" in hub.asked
    assert "/api/models/anna/cells/commit/v2" in [path.partition("?")[0] for path in hub.asked]


@pytest.mark.parametrize(
    ("end", "status", "said", "words"),
    [
        ("/create", 401, "Invalid username or password.", "the Hub does not know the token"),
        ("/create", 403, "You don't have the rights", "has no right to write there: give one that has"),
        ("/main", 403, "Forbidden: pass `create_pr=1`", "has no right to write there"),
        ("/main", 404, "Repository not found", "the Hub has no such user, organisation or repository"),
        ("/create", 400, "bad\nname", "the Hub answered 400"),
    ],
)
def test_refusals_in_one_line(hub, made, capsys, end, status, said, words):
    hub.refusals[end] = status, said.replace("\n", " ")
    if end == "/main":
        hub.refusals["/main?create_pr=0"] = hub.refusals["/main"]
    code, out, err = push(capsys, made, "anna/cells", "--token", "hf_secret")
    assert (code, out) == (2, "")
    assert err.startswith("dfine push: anna/cells was not sent: ")
    assert words in err
    assert err.count("\n") == 1
    assert "hf_secret" not in err


def test_nobody_is_logged_in(hub, made, capsys):
    code, _, err = push(capsys, made, "anna/cells")
    assert code == 2
    assert "nobody is logged in to the Hub: run `hf auth login`, set HF_TOKEN, or give --token" in err
    assert err.count("\n") == 1
    assert hub.asked == []


def test_no_network(hub, made, capsys, monkeypatch):
    hub.server.server_close()
    hub.server.shutdown()
    code, _, err = push(capsys, made, "anna/cells", "--token", "x")
    assert code == 2
    assert f"anna/cells was not sent: the Hub can't be reached at {hub.address}" in err
    assert err.count("\n") == 1
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set, so nothing is sent" in push(capsys, made, "anna/cells", "--token", "x")[2]


@pytest.mark.parametrize("name", ["cells", "anna/", "/cells", "a/b/c", "anna/ce lls", "anna/cells--x", ""])
def test_names_that_no_repository_has(made, capsys, name):
    code, out, err = push(capsys, made, name, "--token", "x")
    assert (code, out) == (2, "")
    assert "no name for a repository on the Hub: give USER/NAME" in err


def test_a_model_that_transformers_can_not_compute(hub, tmp_path, capsys):
    from tiny import tiny_config

    silu = tiny_model(tiny_config(**dict.fromkeys(DECODER_ACTIVATIONS, "silu")))
    save_pretrained(tmp_path / "deim", silu, Preprocessing(64, 96))
    code, _, err = push(capsys, tmp_path / "deim", "anna/cells", "--token", "x")
    assert code == 2
    assert "transformers can't compute this model: its decoder has quality_activation = 'silu'" in err
    assert err.count("\n") == 1
    assert hub.asked == []


def test_help_teaches(capsys):
    with pytest.raises(SystemExit):
        main(["push", "--help"])
    out = capsys.readouterr().out
    assert "dfine push runs/cells/model anna/blood-cells --dry-run look" in out
