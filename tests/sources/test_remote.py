"""Archives behind an address, read by ranges of bytes from a server on this machine."""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from stream_cases import contents, encode, photo, write_tar

from fastclr.data import ImageIndex, Order, load_splits, make_loader
from fastclr.data.loader_choice import has_dali

SERVED: dict[str, bytes] = {}
SENT: list[int] = []


class Server(BaseHTTPRequestHandler):
    """Serves `SERVED` and ranges of it, and notes how many bytes each answer has."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.answer(False)

    def do_GET(self) -> None:
        self.answer(True)

    def answer(self, send: bool) -> None:
        data = SERVED.get(self.path)
        if data is None:
            self.send_error(404)
            return
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", "") if "plain" not in self.path else "")
        part = data[int(asked[1]) : int(asked[2]) + 1] if asked else data
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {asked[1]}-{int(asked[1]) + len(part) - 1}/{len(data)}")
        self.send_header("Accept-Ranges", "none" if "plain" in self.path else "bytes")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        if send:
            SENT.append(len(part))
            self.wfile.write(part)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The address of a server."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def samples(numbers: range) -> dict[str, bytes]:
    found = {}
    for number in numbers:
        found[f"{number:03d}.jpg"] = encode(photo(number, 30, 40), "JPEG")
        found[f"{number:03d}.cls"] = b"%d" % (number % 2)
    return found


@pytest.mark.parametrize("kind", ["resident", "torch", *(["dali"] if has_dali() else [])])
def test_shards_and_a_folder_in_a_tar(kind: str, address: str, tmp_path: Path) -> None:
    """The same images, ids, labels and batches as from the disk, with workers of their own."""
    for part in range(2):
        write_tar(tmp_path / f"x-{part}.tar", samples(range(8 * part, 8 * part + 8)))
    tree = {f"{'ab'[i % 2]}/{i}.png": encode(photo(i, 12, 14), "PNG") for i in range(12)}
    write_tar(tmp_path / "photos.tar", tree)
    SERVED.update({f"/data/{path.name}": path.read_bytes() for path in tmp_path.glob("*.tar")})
    for name in ("x-{0..1}.tar", "x-1.tar", "photos.tar"):
        batches = []
        for source in (f"{address}/data/{name}", f"{tmp_path}/{name}"):
            train = load_splits(source, holdout=0, loader=kind).train  # type: ignore[arg-type]
            with closing(make_loader(train, kind, Order(5, seed=1), workers=1)) as loader:  # type: ignore[arg-type]
                batches.append((train.names, train.classes, [contents(batch) for batch in loader.epoch(0)]))
        assert batches[0] == batches[1]


def test_a_star_stands_for_what_a_folder_lists(address: str, tmp_path: Path) -> None:
    for part in range(2):
        write_tar(tmp_path / f"x-{part}.tar", samples(range(8 * part, 8 * part + 8)))
        SERVED[f"/listed/x-{part}.tar"] = (tmp_path / f"x-{part}.tar").read_bytes()
    SERVED["/listed/"] = b'<a href="x-1.tar">x-1.tar</a> <a href="x-0.tar">x-0.tar</a> <a href="notes.txt">notes</a>'
    found, there = (load_splits(f"{place}/x-*.tar", holdout=0).train for place in (f"{address}/listed", tmp_path))
    assert found.names == there.names and found.fingerprint == there.fingerprint
    with pytest.raises(ValueError, match=r"there is no archive at .*y-"):
        load_splits(f"{address}/listed/y-*.tar")


@pytest.mark.slow
def test_an_object_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`s3://` through s3fs, with a server that speaks its protocol: by name, by a star, resident and streamed."""
    pytest.importorskip("s3fs", reason="the test needs s3fs, of the extra dev")
    moto = pytest.importorskip("moto.server", reason="the test needs moto, of the extra dev")
    import boto3

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        store = boto3.client("s3")
        store.create_bucket(Bucket="pictures")
        for part in range(2):
            data = write_tar(tmp_path / f"x-{part}.tar", samples(range(8 * part, 8 * part + 8))).read_bytes()
            store.put_object(Bucket="pictures", Key=f"all/x-{part}.tar", Body=data)
        there = load_splits(f"{tmp_path}/x-*.tar", holdout=0).train
        for pattern in ("x-{0..1}.tar", "x-*.tar"):
            found = load_splits(f"s3://pictures/all/{pattern}", holdout=0).train
            assert found.names == there.names and found.fingerprint == there.fingerprint
        index = load_splits("s3://pictures/all/x-*.tar", holdout=0, loader="torch").train
        with closing(make_loader(index, "torch", Order(5, seed=1), workers=1)) as loader:
            streamed = [contents(batch) for batch in loader.epoch(0)]
        with closing(make_loader(there, "auto", Order(5, seed=1))) as loader:
            assert streamed == [contents(batch) for batch in loader.epoch(0)]
    finally:
        server.stop()


def test_only_parts_are_fetched(address: str, tmp_path: Path) -> None:
    """Reading one image of a large archive takes its bytes, not the archive's."""
    tree = {f"a/{i}.bmp": encode(photo(i, 300, 400), "BMP") for i in range(12)}
    SERVED["/large.tar"] = write_tar(tmp_path / "large.tar", tree).read_bytes()
    index = load_splits(f"{address}/large.tar", loader="torch").train
    SENT.clear()
    assert isinstance(index, ImageIndex) and index.read(7) == tree[f"a/{index.names[7]}"]
    assert sum(SENT) < 2 * len(tree["a/7.bmp"]) < len(SERVED["/large.tar"]) / 5


def test_what_is_not_there_or_damaged(address: str) -> None:
    """The address is named."""
    SERVED["/broken.tar"] = b"no archive"
    for name in ("missing.tar", "broken.tar"):
        with pytest.raises(ValueError, match=rf"{address}/{name} is damaged, cut short, or no tar archive"):
            load_splits(f"{address}/{name}")
    with pytest.raises((ValueError, ModuleNotFoundError), match="nothing"):
        load_splits("nothing://x/y.tar")


def test_a_server_without_ranges(address: str, tmp_path: Path) -> None:
    """It is said, whatever the loader."""
    SERVED["/plain.tar"] = write_tar(tmp_path / "plain.tar", samples(range(6))).read_bytes()
    for kind in ("resident", "torch"):
        with pytest.raises(
            ValueError, match=r"/plain\.tar .*: its server does not serve ranges of bytes: fetch the file"
        ):
            load_splits(f"{address}/plain.tar", loader=kind)  # type: ignore[arg-type]


def test_the_package_of_another_kind_of_address_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(ModuleNotFoundError, match=r"gs:// needs another package: pip install gcsfs$"):
        load_splits("gs://bucket/x.tar")
