"""Files may be written by another process, and nothing about an import tells."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

import pytest

from mlflow_bundle.archive import ArchiveReader
from mlflow_bundle.contracts import HeldMember, Sizes
from mlflow_bundle.side_process import LostProcessError, SideProcess
from mlflow_bundle.sql import file_process
from mlflow_bundle.sql import sink as sql_sink
from mlflow_bundle.sql.file_process import FileProcess
from tests.sql.imports import import_into, made, place
from tests.transfer.commands import command, interrupted_after


class _Counting(FileProcess):
    """Starts with the first file, and counts those that it has written."""

    written = 0

    def __init__(self, threads: int) -> None:
        super().__init__(threads, few=0)

    def write(
        self, members: Sequence[HeldMember], directory: Path, paths: Sequence[str]
    ) -> Future[Sizes] | None:
        sizes = super().write(members, directory, paths)
        if sizes is not None:
            sizes.add_done_callback(self._count)
        return sizes

    @staticmethod
    def _count(sizes: Future[Sizes]) -> None:
        _Counting.written += sum(size is not None for size in sizes.result())


class _Troubled(_Counting):
    """Meets something when it has a part of its work."""

    def write(
        self, members: Sequence[HeldMember], directory: Path, paths: Sequence[str]
    ) -> Future[Sizes] | None:
        sizes = super().write(members, directory, paths)
        if self._next == 5:
            assert self._process is not None
            self.meet(self._process)
        return sizes

    def meet(self, process: SideProcess) -> None:
        raise NotImplementedError


class _Dying(_Troubled):
    """Is killed."""

    def meet(self, process: SideProcess) -> None:
        process.kill()


class _Odd(_Troubled):
    """Answers what it was not asked."""

    def meet(self, process: SideProcess) -> None:
        with contextlib.suppress(LostProcessError):
            process.send((-1, b"", []))


class _Stuck(_Counting):
    """Does nothing with its work, as one whose disk does not answer."""

    def write(
        self, members: Sequence[HeldMember], directory: Path, paths: Sequence[str]
    ) -> Future[Sizes] | None:
        sizes = super().write(members, directory, paths)
        if self._process is not None:
            os.kill(self._process.pid, signal.SIGSTOP)
        return sizes


def _without(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: object, **__: object) -> None:
        raise LostProcessError

    monkeypatch.setattr(file_process, "SideProcess", absent)


def _files(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


@pytest.fixture
def expected(
    full_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, bytes]:
    """The files of an import without another process."""
    with monkeypatch.context() as patched:
        _without(patched)
        to = place(tmp_path / "without")
        import_into(to, full_bundle)
    return _files(to.artifacts)


@pytest.mark.parametrize("kind", [_Counting, _Dying, _Odd])
def test_the_files_are_the_same(
    kind: type[_Counting],
    full_bundle: Path,
    expected: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sql_sink, "FileProcess", kind)
    _Counting.written = 0
    to = place(tmp_path / "with")
    report = import_into(to, full_bundle)
    found = _files(to.artifacts)
    assert sorted(found) == sorted(expected)
    assert found == expected
    assert len(found) > 20
    assert report.done["artifact"] == len(found)
    if kind is _Counting:
        # All but MLmodel files, which are rewritten, and those of what comes without a start.
        assert _Counting.written > len(found) / 2
    else:
        assert _Counting.written < len(found)


def test_names_that_are_no_text_are_names(full_bundle: Path, tmp_path: Path) -> None:
    with (
        contextlib.closing(ArchiveReader.open(full_bundle)) as reader,
        contextlib.closing(FileProcess(2, few=0)) as process,
    ):
        assert reader.descriptor is not None
        path = next(reader.iter_members()).path
        member = HeldMember(reader.descriptor, path)
        for name in ("caf\udce9.txt", "ü.txt", "below/a b"):
            sizes = process.write([member], tmp_path, [name])
            assert sizes is not None
            assert sizes.result() == [len(reader.read(path))]
            assert (tmp_path / name).read_bytes() == reader.read(path)
        assert process.write([member], tmp_path, ["\ud800"]) is None
        sizes = process.write([HeldMember(reader.descriptor, "absent")], tmp_path, ["x"])
        assert sizes is not None
        assert sizes.result() == [None]


def test_what_it_cannot_write_is_a_loss_with_its_reason(
    full_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []
    for name in ("with", "without"):
        to = place(tmp_path / name)
        with monkeypatch.context() as patched:
            if name == "with":
                patched.setattr(sql_sink, "FileProcess", _Counting)
            else:
                _without(patched)
            to.artifacts.mkdir()
            # Where a directory of many runs would be.
            (to.artifacts / "1").write_text("in the way")
            report = import_into(to, full_bundle)
        losses = [loss for loss in report.losses if loss.kind == "artifact"]
        told.append(sorted(f"{loss.id}: {loss.reason}".replace(name, "") for loss in losses))
    assert told[0] == told[1]
    assert told[0]
    assert all("directory" in line for line in told[0])


def test_ctrl_c_does_not_wait_for_it(
    full_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sql_sink, "FileProcess", _Stuck)
    began = time.monotonic()
    to = made(tmp_path / "stuck")
    words = ("--tracking-uri", to.uri, "--artifacts-destination", to.artifacts)
    with interrupted_after(6):
        command("import-all", full_bundle, *words, expect=130)
    assert time.monotonic() - began < 60
    monkeypatch.undo()
    interrupted = _files(to.artifacts)
    with contextlib.closing(sqlite3.connect(to.file)) as connection:
        there = {run_id for (run_id,) in connection.execute("SELECT run_uuid FROM runs")}
    again = command("import-all", full_bundle, *words, expect=None)  # goes on
    complete = tmp_path / "complete"
    once = command(
        *("import-all", full_bundle, "--tracking-uri", f"sqlite:///{tmp_path}/complete.db"),
        *("--artifacts-destination", complete),
        expect=None,
    )
    assert again.exit_code == once.exit_code
    assert sorted(_files(to.artifacts)) == sorted(_files(complete))
    # No row without its files, even then.
    of_runs = {path for path in _files(complete) if path.split("/")[1] in there}
    assert of_runs <= set(interrupted)


_OWNER = """
import os, sys
from pathlib import Path
from mlflow_bundle.archive import ArchiveReader
from mlflow_bundle.contracts import HeldMember
from mlflow_bundle.sql.file_process import FileProcess

reader = ArchiveReader.open(sys.argv[1])
process = FileProcess(2, few=0)
path = next(reader.iter_members()).path
process.write([HeldMember(reader.descriptor, path)], Path(sys.argv[2]), ["x"]).result()
print(process._process.pid, flush=True)
os.kill(os.getpid(), 9)
"""


def test_it_ends_with_its_owner(full_bundle: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-c", _OWNER, str(full_bundle), str(tmp_path)]
    owner = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False)
    assert owner.returncode == -signal.SIGKILL
    assert (tmp_path / "x").exists()
    process = int(owner.stdout)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and _is_running(process):
        time.sleep(0.05)
    assert not _is_running(process)


def _is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_a_process_that_does_not_start_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/no such interpreter")
    with pytest.raises(LostProcessError):
        SideProcess("mlflow_bundle.sql.file_process", 0)


@pytest.mark.parametrize("beside", [True, False])
def test_a_damaged_file_ends_the_import(
    beside: bool, full_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if beside:
        monkeypatch.setattr(sql_sink, "FileProcess", _Counting)
    else:
        _without(monkeypatch)
    damaged = tmp_path / "damaged.mlbundle"
    with contextlib.closing(ArchiveReader.open(full_bundle)) as reader:
        largest = max(
            (member for member in reader.iter_members() if "/artifacts/" in member.path),
            key=lambda member: member.size,
        )
        content = reader.read(largest)
    data = bytearray(full_bundle.read_bytes())
    at = data.find(content[1000:1100])
    assert at > 0, "it is compressed"
    data[at] ^= 1
    damaged.write_bytes(data)
    words = ("--tracking-uri", f"sqlite:///{tmp_path}/x.db")
    words += ("--artifacts-destination", str(tmp_path / "files"))
    done = command("import-all", damaged, *words, expect=4)
    assert "digest is wrong" in done.stderr
    command("import-all", full_bundle, *words, "--placeholder-secrets")  # completes it


def test_a_link_to_nothing_is_no_file(full_bundle: Path, tmp_path: Path) -> None:
    to = place(tmp_path / "linked")
    import_into(to, full_bundle)
    whole = _files(to.artifacts)
    victim = to.artifacts / next(path for path in sorted(whole) if path.endswith("a/b.txt"))
    victim.unlink()
    victim.symlink_to(tmp_path / "nowhere")
    report = import_into(to, full_bundle)
    assert report.done["artifact"] == 1
    assert not victim.is_symlink()
    assert not (tmp_path / "nowhere").exists()
    assert _files(to.artifacts) == whole


def test_a_full_disk_ends_an_import_which_goes_on_when_there_is_room(
    full_bundle: Path, expected: dict[str, bytes], tmp_path: Path
) -> None:
    to = place(tmp_path / "full")
    # The other process writes none of these; of a skill it would, and take the link away.
    models = (path for path in expected if path.endswith("/MLmodel"))
    full = to.artifacts / next(path for path in models if not path.startswith("skills/"))
    # It gets its name when it is whole; until then, all that is written to it meets a full disk.
    digest = hashlib.sha256(os.fsencode(full.name)).hexdigest()[:16]
    full.parent.mkdir(parents=True)
    full.with_name(f".mlflow-bundle-{digest}.partial").symlink_to("/dev/full")
    words = ["import-all", full_bundle, "--tracking-uri", to.uri]
    words += ["--artifacts-destination", to.artifacts, "--quiet"]
    done = command(*words, expect=1)
    assert f"{full}: OSError: [Errno 28] No space left on device" in done.stderr
    assert "make room and give the same command again" in done.stderr
    command(*words, expect=3)  # secrets of the gateway are in no bundle
    assert _files(to.artifacts) == expected
