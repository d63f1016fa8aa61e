from __future__ import annotations

import io
import json
import random
import uuid
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException

from mlflow_bundle.archive import ArchiveWriter, escape_path, order_key
from mlflow_bundle.plugin.artifact_repository import BundleArtifactRepository, split_uri

LONG = "n" * 240
FILES = {
    "model/MLmodel": b"flavors: {}\n",
    "model/data/weights.bin": bytes(range(256)) * 8000,
    "plot 100%.png": b"png",
    ".hidden": b"dot",
    "C:x\n": b"odd",
    "empty": b"",
    "noise": random.Random(0).randbytes(100_000),
    f"{LONG}.txt": b"long name",
}
RUN = "experiments/1/0123456789abcdef0123456789abcdef"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bundle dir") / "server.mlbundle"
    members = {f"{RUN}/artifacts/{escape_path(name)}": data for name, data in FILES.items()}
    members[f"{RUN}/run.json"] = b"{}"
    members["manifest.json"] = b"{}"
    with path.open("wb") as stream:
        writer = ArchiveWriter(
            stream,
            bundle_uuid=uuid.UUID(int=1),
            header=json.dumps({"format": "mlbundle"}).encode(),
            mtime_ns=0,
            jobs=1,
        )
        for name in sorted(members, key=order_key):
            writer.add_stream(name, io.BytesIO(members[name]), len(members[name]))
        writer.finish()
        writer.close()
    return path


@pytest.fixture
def repository(bundle: Path) -> BundleArtifactRepository:
    return BundleArtifactRepository(f"mlbundle://{bundle}/{RUN}/artifacts")


def test_mlflow_opens_the_repository_by_its_scheme(bundle: Path) -> None:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    found = get_artifact_repository(f"mlbundle://{bundle}/{RUN}/artifacts")
    assert isinstance(found, BundleArtifactRepository)


def test_artifacts_are_listed_under_the_names_they_were_logged_by(
    repository: BundleArtifactRepository,
) -> None:
    listed = {info.path: (info.is_dir, info.file_size) for info in repository.list_artifacts()}
    shortened = {path for path in listed if path.startswith("nnn")}
    assert len(shortened) == 1  # the index holds a digest instead of so long a name
    assert {path: listed[path] for path in listed.keys() - shortened} == {
        ".hidden": (False, 3),
        "C:x\n": (False, 3),
        "empty": (False, 0),
        "model": (True, None),
        "noise": (False, 100_000),
        "plot 100%.png": (False, 3),
    }
    assert [info.path for info in repository.list_artifacts("model")] == [
        "model/MLmodel",
        "model/data",
    ]
    assert [info.path for info in repository.list_artifacts("model/data/")] == [
        "model/data/weights.bin"
    ]


@pytest.mark.parametrize("path", ["empty", "no/such", "..", "../run.json"])
def test_files_and_what_is_not_there_list_nothing(
    repository: BundleArtifactRepository, path: str
) -> None:
    assert repository.list_artifacts(path) == []


@pytest.mark.parametrize("name", FILES)
def test_each_artifact_is_downloaded_byte_by_byte(
    repository: BundleArtifactRepository, tmp_path: Path, name: str
) -> None:
    local = repository.download_artifacts(name, str(tmp_path))
    assert Path(local).read_bytes() == FILES[name]


def test_an_artifact_is_downloaded_by_its_shortened_name(
    repository: BundleArtifactRepository, tmp_path: Path
) -> None:
    (name,) = (i.path for i in repository.list_artifacts() if i.path.startswith("nnn"))
    local = repository.download_artifacts(name, str(tmp_path))
    assert Path(local).read_bytes() == b"long name"


def test_a_directory_is_downloaded_whole_and_nothing_is_left_beside_it(
    repository: BundleArtifactRepository, tmp_path: Path
) -> None:
    local = Path(repository.download_artifacts("model", str(tmp_path)))
    found = {p.relative_to(local).as_posix() for p in local.rglob("*") if p.is_file()}
    assert found == {"MLmodel", "data/weights.bin"}


def test_the_root_of_the_bundle_shows_the_tree_without_the_header(bundle: Path) -> None:
    repository = BundleArtifactRepository(f"mlbundle://{bundle}")
    assert [info.path for info in repository.list_artifacts()] == ["experiments", "manifest.json"]


def test_a_missing_artifact_is_a_missing_resource(
    repository: BundleArtifactRepository, tmp_path: Path
) -> None:
    with pytest.raises(MlflowException, match="No such artifact: 'no/such'") as caught:
        repository._download_file("no/such", str(tmp_path / "such"))
    assert caught.value.error_code == "RESOURCE_DOES_NOT_EXIST"


def test_every_write_is_refused(repository: BundleArtifactRepository, tmp_path: Path) -> None:
    writes = [
        lambda: repository.log_artifact(str(tmp_path), "a"),
        lambda: repository.log_artifacts(str(tmp_path)),
        lambda: repository.delete_artifacts("model"),
        lambda: repository._log_artifact_async("a.png", artifact=object()),
    ]
    for write in writes:
        with pytest.raises(MlflowException, match="is read-only") as caught:
            write()
        assert caught.value.error_code == "PERMISSION_DENIED"
        assert caught.value.get_http_status_code() == 403


def test_a_damaged_artifact_is_data_loss_and_leaves_no_file(bundle: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.mlbundle"
    content = bytearray(bundle.read_bytes())
    content[content.index(FILES["noise"][500:516])] ^= 1  # noise is stored as it is
    damaged.write_bytes(content)
    repository = BundleArtifactRepository(f"mlbundle://{damaged}/{RUN}/artifacts")
    target = tmp_path / "out"
    target.mkdir()
    with pytest.raises(MlflowException) as caught:
        repository._download_file("noise", str(target / "noise"))
    assert caught.value.error_code == "DATA_LOSS"
    assert list(target.iterdir()) == []


def test_a_file_that_is_no_bundle_is_data_loss(tmp_path: Path) -> None:
    (tmp_path / "x.mlbundle").write_bytes(b"no bundle at all")
    with pytest.raises(MlflowException) as caught:
        BundleArtifactRepository(f"mlbundle://{tmp_path}/x.mlbundle").list_artifacts()
    assert caught.value.error_code == "DATA_LOSS"


def test_a_missing_bundle_is_a_missing_resource(tmp_path: Path) -> None:
    with pytest.raises(MlflowException, match=r"x\.mlbundle") as caught:
        BundleArtifactRepository(f"mlbundle://{tmp_path}/x.mlbundle").list_artifacts()
    assert caught.value.error_code == "RESOURCE_DOES_NOT_EXIST"


@pytest.mark.parametrize(
    ("uri", "parts"),
    [
        ("mlbundle:///a/x.mlbundle", ("/a/x.mlbundle", "")),
        ("mlbundle:///a/x.mlbundle/b/c", ("/a/x.mlbundle", "b/c")),
        ("mlbundle:/a/x.mlbundle/b", ("/a/x.mlbundle", "b")),
        ("mlbundle://localhost/a/x.mlbundle/b", ("/a/x.mlbundle", "b")),
        ("mlbundle:///a%20b/x.mlbundle/b%3Ac#d/", ("/a b/x.mlbundle", "b%3Ac#d")),
        ("mlbundle:///x.mlbundle/b.mlbundle", ("/x.mlbundle", "b.mlbundle")),
    ],
)
def test_a_uri_is_a_file_and_a_member_directory(uri: str, parts: tuple[str, str]) -> None:
    assert split_uri(uri) == parts


def test_a_directory_named_like_a_bundle_is_passed_over(tmp_path: Path) -> None:
    directory = tmp_path / "old.mlbundle"
    directory.mkdir()
    (directory / "x.mlbundle").touch()
    uri = f"mlbundle://{directory}/x.mlbundle/experiments"
    assert split_uri(uri) == (f"{directory}/x.mlbundle", "experiments")


@pytest.mark.parametrize(
    "uri", ["mlbundle://host/a/x.mlbundle", "mlbundle:x.mlbundle", "mlbundle:///a/b"]
)
def test_a_uri_with_a_host_a_relative_path_or_no_bundle_is_refused(uri: str) -> None:
    with pytest.raises(MlflowException, match="Invalid bundle URI") as caught:
        split_uri(uri)
    assert caught.value.error_code == "INVALID_PARAMETER_VALUE"
