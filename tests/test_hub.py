"""Fetching models, against a real HTTP server that speaks the part of the hub's API that fetching needs."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from squeeze import hub
from squeeze.config import CompressionConfig
from squeeze.demo import MODEL_DIR
from squeeze.errors import ConfigError, SetupError
from squeeze.folder import Manifest, content_files, file_hash, write_manifest

SHA = "a" * 40
MODEL = "owner/small"


class Hub(ThreadingHTTPServer):
    """Serves the files of a folder as the hub serves a model."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        self.hashes = {name: hashlib.sha256(data).hexdigest() for name, data in self.files.items()}
        self.requests: list[tuple[str, str, str | None]] = []
        self.status = 200
        self.gated = False
        self.cut: str | None = None
        self.tokens: set[str | None] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        path = self.path.split("?")[0]
        name = path.rsplit("/", 1)[1]
        self.server.requests.append((self.command, path, self.headers.get("Range")))
        self.server.tokens.add(self.headers.get("Authorization"))
        if self.server.status != 200:
            self.send(b"{}", {"X-Error-Code": "RepoNotFound"} if self.server.status in (401, 404) else {})
        elif path == f"/api/models/{MODEL}":
            siblings = [
                {
                    "rfilename": name,
                    "size": len(data),
                    "blobId": "b" * 40,
                    "lfs": {"sha256": self.server.hashes[name], "size": len(data), "pointerSize": 1},
                }
                for name, data in self.server.files.items()
            ]
            self.send(json.dumps({"id": MODEL, "sha": SHA, "siblings": siblings}).encode(), {})
        elif self.server.gated:
            self.server.status = 403
            self.send(b"{}", {"X-Error-Code": "GatedRepo"})
            self.server.status = 200
        else:
            self.file(name, body)

    def send(self, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(self.server.status)
        for key, value in {"Content-Type": "application/json", **headers}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def file(self, name: str, body: bool) -> None:
        data = self.server.files[name]
        asked = self.headers.get("Range")
        first = int(asked.removeprefix("bytes=").split("-")[0]) if asked else 0
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        self.send_header("ETag", f'"{name}-1"')
        self.send_header("X-Repo-Commit", SHA)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(data) - first))
        self.end_headers()
        if not body:
            return
        if self.server.cut == name:
            self.wfile.write(data[first : len(data) // 2])
            self.wfile.flush()
            self.server.status = 418  # from here on it serves nobody, and is not asked again as after 503
            self.close_connection = True
            self.connection.shutdown(1)
            return
        self.wfile.write(data[first:])


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The embedded model on a hub of its own, with files that must stay there."""
    folder = tmp_path / "origin"
    shutil.copytree(MODEL_DIR, folder)
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    (folder / "modeling_exaone.py").write_text("raise SystemExit")
    server = Hub(folder)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_hub_id_is_fetched_without_code_and_pickles(served: Hub, tmp_path: Path) -> None:
    place = hub.fetch(MODEL, tmp_path / "models")
    assert place == tmp_path / "models" / "base" / "owner--small"
    names = {path.name for path in place.iterdir()}
    assert {"config.json", "tokenizer.json", "model.safetensors"} <= names
    assert not names & {"pytorch_model.bin", "modeling_exaone.py", ".cache"}
    assert (place / "model.safetensors").read_bytes() == (MODEL_DIR / "model.safetensors").read_bytes()
    assert [path.name for path in place.parent.iterdir()] == [place.name]


def test_a_second_call_asks_nobody(served: Hub, tmp_path: Path) -> None:
    first = hub.fetch(MODEL, tmp_path)
    asked = len(served.requests)
    assert hub.fetch(MODEL, tmp_path) == first
    assert len(served.requests) == asked


def test_only_the_token_of_the_environment_is_sent(
    served: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    hub.fetch(MODEL, tmp_path / "with")
    assert served.tokens == {"Bearer hf_mine"}
    served.tokens.clear()
    monkeypatch.delenv("HF_TOKEN")
    hub.fetch(MODEL, tmp_path / "without")
    assert served.tokens == {None}


def test_a_cut_fetch_is_no_model_and_goes_on_where_it_stopped(
    served: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1 << 16)  # what is lost at a cut; else 10 MB
    served.cut = "model.safetensors"
    with pytest.raises(SetupError, match=r"the hub answered 418|cannot be reached"):
        hub.fetch(MODEL, tmp_path)
    assert not (tmp_path / "base" / "owner--small").exists()
    served.cut, served.status = None, 200
    served.requests.clear()
    place = hub.fetch(MODEL, tmp_path)
    assert (place / "model.safetensors").read_bytes() == served.files["model.safetensors"]
    ranges = [ask[2] for ask in served.requests if ask[0] == "GET" and ask[1].endswith(".safetensors")]
    half = len(served.files["model.safetensors"]) // 2
    assert ranges == [f"bytes={half - half % (1 << 16)}-"]


def test_bytes_that_are_not_the_originals_are_fetched_again(served: Hub, tmp_path: Path) -> None:
    good = served.files["model.safetensors"]
    served.files["model.safetensors"] = good[:-1] + bytes([good[-1] ^ 1])
    with pytest.raises(
        SetupError, match=r"model\.safetensors of owner/small must have the hub's size and hash"
    ):
        hub.fetch(MODEL, tmp_path)
    served.files["model.safetensors"] = good
    assert (hub.fetch(MODEL, tmp_path) / "model.safetensors").read_bytes() == good


def test_two_processes_never_write_the_same_fetch(served: Hub, tmp_path: Path) -> None:
    partial = tmp_path / "base" / f".owner--small.{SHA[:12]}.fetching"
    partial.mkdir(parents=True)
    other = os.open(partial, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    with pytest.raises(SetupError, match="is being fetched by another process"):
        hub.fetch(MODEL, tmp_path)
    os.close(other)
    assert hub.fetch(MODEL, tmp_path).is_dir()


def test_a_gated_model_gives_one_line_with_the_remedy(served: Hub, tmp_path: Path) -> None:
    served.gated = True
    with pytest.raises(SetupError, match=r"gated; accept its terms.*HF_TOKEN") as caught:
        hub.fetch(MODEL, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("status", [401, 404])
def test_an_id_that_the_hub_does_not_show_is_the_users_mistake(
    served: Hub, tmp_path: Path, status: int
) -> None:
    served.status = status
    with pytest.raises(ConfigError, match="owner/small is no folder here and the hub does not show it"):
        hub.fetch(MODEL, tmp_path)


def test_a_broken_hub_gives_one_line(served: Hub, tmp_path: Path) -> None:
    served.status = 418
    with pytest.raises(SetupError, match="the hub answered 418"):
        hub.fetch(MODEL, tmp_path)


def test_without_a_network_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(SetupError, match=r"cannot be reached.*go online") as caught:
        hub.fetch(MODEL, tmp_path)
    assert "\n" not in str(caught.value)


def test_a_disk_that_is_too_small_is_told_before_fetching(
    served: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub.shutil, "disk_usage", lambda _: _Usage(1000))
    with pytest.raises(SetupError, match=r"needs [\d,]+ bytes in .*; 1,000 are free; make room"):
        hub.fetch(MODEL, tmp_path)
    assert not any(path.endswith(".safetensors") for _, path, _ in served.requests)


def test_a_disk_that_fills_up_meanwhile_gives_one_line(
    served: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import file_download

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(file_download, "http_get", full)
    with pytest.raises(SetupError, match="must fit on the disk, which is full; make room"):
        hub.fetch(MODEL, tmp_path)


def test_a_model_that_lacks_a_file_on_the_hub_is_refused(served: Hub, tmp_path: Path) -> None:
    del served.files["tokenizer.json"]
    with pytest.raises(ConfigError, match=r"on the hub cannot be used: .*tokenizer"):
        hub.fetch(MODEL, tmp_path)
    assert not (tmp_path / "base" / "owner--small").exists()


def test_a_model_of_pickles_is_refused_before_anything_is_fetched(served: Hub, tmp_path: Path) -> None:
    del served.files["model.safetensors"]
    with pytest.raises(ConfigError, match=r"must be safetensors.*; owner/small has none on the hub"):
        hub.fetch(MODEL, tmp_path)
    assert [path for _, path, _ in served.requests] == [f"/api/models/{MODEL}"]


def test_a_folder_that_was_built_here_and_changed_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "built"
    shutil.copytree(MODEL_DIR, folder)
    files = {path.name: file_hash(path) for path in content_files(folder)}
    write_manifest(folder, Manifest(files=files, config=CompressionConfig(), base="b", data="d", versions={}))
    assert hub.fetch(str(folder), tmp_path) == folder
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))
    with pytest.raises(ConfigError, match=r"model\.safetensors has changed"):
        hub.fetch(str(folder), tmp_path)


def test_a_local_folder_is_checked_and_returned_as_it_is(tmp_path: Path) -> None:
    assert hub.fetch(str(MODEL_DIR), tmp_path) == MODEL_DIR
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "model", ["nowhere", "./no/where", "/no/where/at/all", "models/base/none", "models/none"]
)
def test_a_folder_that_does_not_exist_is_told_without_asking_the_hub(model: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        hub.fetch(model, tmp_path / "models")


@pytest.mark.parametrize(
    "lacks", ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
)
def test_a_folder_that_lacks_a_file_is_refused_by_name(lacks: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(MODEL_DIR, folder)
    (folder / lacks).unlink()
    with pytest.raises(ConfigError, match=lacks):
        hub.fetch(str(folder), tmp_path)


def test_a_folder_without_any_chat_template_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(MODEL_DIR, folder)
    (folder / "chat_template.jinja").unlink()
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match="must have a chat template"):
        hub.fetch(str(folder), tmp_path)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(ConfigError, match="must not be empty"):
        hub.fetch(str(tmp_path / "model"), tmp_path)


def test_a_folder_without_a_shard_of_its_index_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(MODEL_DIR, folder)
    index = {"weight_map": {"model.norm.weight": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ConfigError, match=r"lacks model-00002-of-00002\.safetensors"):
        hub.fetch(str(folder), tmp_path)


def test_a_model_that_is_no_decoder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(MODEL_DIR, folder)
    config = {"architectures": ["BertModel"], "model_type": "bert"}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="must be a causal decoder"):
        hub.fetch(str(folder), tmp_path)


class _Usage:
    """What shutil.disk_usage returns, as far as it is looked at."""

    def __init__(self, free: int) -> None:
        self.free = free
