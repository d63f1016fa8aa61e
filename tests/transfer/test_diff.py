"""``diff``, ``import --verify``, ``verify --against``: what is equal, and each kind of change."""

from __future__ import annotations

import contextlib
import re
import shutil
import sqlite3
from pathlib import Path

import pytest

from mlflow_bundle.diff.exemptions import EXEMPTIONS
from mlflow_bundle.diff.expected import AS_IT_IS
from mlflow_bundle.diff.values import text_of
from mlflow_bundle.entities import ModelVersion, RunInfo
from mlflow_bundle.kinds import RECORDS
from tests.conftest import LendServer
from tests.servers import MlflowServer
from tests.transfer.commands import Done, Json, command, export, import_
from tests.transfer.small import Small

pytestmark = pytest.mark.server


def diff(*words: str | Path, expect: int) -> Json:
    done = command("diff", *words, "--json", "--quiet", expect=expect)
    assert done.report["exit_code"] == expect
    return done.report


def told(report: Json) -> set[tuple[str, str, str]]:
    """Kind, field and change of each difference."""
    assert report["differences_total"] == len(report["differences"])
    return {(d["kind"], d["field"], d["change"]) for d in report["differences"]}


def id_of(server: MlflowServer, origin: str, *, kind: str = "run") -> str:
    """Id here of what an import brought."""
    table, column = {"run": ("tags", "run_uuid"), "model": ("logged_model_tags", "model_id")}[kind]
    key, value = ("key", "value") if kind == "run" else ("tag_key", "tag_value")
    with contextlib.closing(sqlite3.connect(server.database)) as connection:
        found = connection.execute(
            f"SELECT {column} FROM {table} WHERE {key} = 'mlflow_bundle.origin' AND {value} = ?",
            (origin,),
        ).fetchone()
    return str(found[0])


def change(server: MlflowServer, sql: str, *values: object) -> None:
    """Change what no request can change."""
    with contextlib.closing(sqlite3.connect(server.database, timeout=30)) as connection:
        assert connection.execute(sql, values).rowcount == 1
        connection.commit()


def counts(done: Done) -> dict[str, tuple[int, int]]:
    """Equal pairs, and everything else, by kind."""
    kinds = done.report["verification"]["kinds"].items()
    return {kind: (c.pop("equal"), sum(c.values())) for kind, c in kinds}


def test_a_bundle_its_directory_and_its_server_are_equal(
    small_bundle: Path, small_server: MlflowServer, tmp_path: Path
) -> None:
    report = diff(small_bundle, small_server.uri, expect=0)
    assert report["equal"] is True
    assert (report["a"], report["b"]) == (str(small_bundle), small_server.uri)
    assert report["kinds"]["run"] == {"equal": 5, "different": 0, "only_in_a": 0, "only_in_b": 0}
    assert report["kinds"]["model_version"]["equal"] == 6
    command("extract", small_bundle, "-o", tmp_path / "tree")
    diff(tmp_path / "tree", small_bundle, "--strict", expect=0)
    shown = command("diff", small_server.uri, tmp_path / "tree", "--artifacts", "size").stdout
    assert shown.endswith("equal\n")

    # One artifact is another one, one run is gone.
    (notes,) = (tmp_path / "tree").rglob("notes.txt")
    notes.write_bytes(b"NOTES")
    (only,) = (path for path in (tmp_path / "tree").rglob("run.json") if "only" in path.read_text())
    shutil.rmtree(only.parent)
    changed = diff(small_bundle, tmp_path / "tree", expect=3)
    assert told(changed) == {
        ("run", "artifacts/notes.txt", "different"),
        ("run", "", "only_in_a"),
    }
    # Its size is the same, and with --artifacts skip nothing is looked at.
    assert told(diff(small_bundle, tmp_path / "tree", "--artifacts", "size", expect=3)) == {
        ("run", "", "only_in_a")
    }
    assert told(diff(tmp_path / "tree", small_bundle, "--artifacts", "skip", expect=3)) == {
        ("run", "", "only_in_b")
    }


def test_copies_of_copies_are_equal_and_every_change_is_named(
    small_bundle: Path,
    small_server: MlflowServer,
    small: Small,
    empty_server: LendServer,
    tmp_path: Path,
) -> None:
    second, third = empty_server(), empty_server()
    verified = import_(second, small_bundle, "--verify")
    assert verified.report["verification"]["equal"] is True
    export(second, tmp_path / "second.mlbundle")
    import_(third, tmp_path / "second.mlbundle")
    report = diff(small_server.uri, third.uri, expect=0)
    assert report["not_compared"]["run.id"] == 5
    diff(third.uri, tmp_path / "second.mlbundle", expect=0)
    command("verify", small_bundle, "--against", third.uri, "--quiet")
    # Ids differ, and so do the MLmodel files that hold them.
    strict = told(diff(small_server.uri, third.uri, "--strict", expect=3))
    assert ("run", "id", "different") in strict
    assert ("registered_model", "creation_timestamp", "different") in strict
    assert {field for kind, field, _ in strict if kind == "run"} == {
        "artifact_uri",
        "id",
        "tags.mlflow_bundle.origin",
    }

    here = Small(second.uri)
    first, child = id_of(second, small.runs["first"]), id_of(second, small.runs["second"])
    tree = id_of(second, small.logged_models["tree"], kind="model")
    here.call("runs/log-metric", run_id=first, key="loss", value=9, timestamp=1, step=99)
    here.call("runs/set-tag", run_id=first, key="colour", value="blue")
    here.call("runs/set-tag", run_id=first, key="more", value="x")
    here.alias("churn", "champion", 1)
    here.call("registered-models/update", method="PATCH", name="churn", description="who stays")
    change(second, "UPDATE params SET value = '0.2' WHERE run_uuid = ? AND key = 'alpha'", first)
    change(second, "UPDATE logged_models SET status = 3 WHERE model_id = ?", tree)
    # A reference that names the source's id, as if it had not been rewritten.
    here.call("runs/set-tag", run_id=child, key="mlflow.parentRunId", value=small.runs["first"])
    (mlmodel,) = second.artifact_directory.rglob(f"{first}/artifacts/model/MLmodel")
    mlmodel.write_bytes(mlmodel.read_bytes().replace(first.encode(), small.runs["first"].encode()))
    (wine,) = second.artifact_directory.rglob("w.txt")
    wine.write_bytes(b"Wine")
    here.run("here only", _experiment(here, "one"))
    here.model("here only")
    expected = {
        ("run", "tags.colour", "different"),
        ("run", "params.alpha", "different"),
        ("run", "tags.mlflow.parentRunId", "different"),
        ("run", "artifacts/model/MLmodel", "different"),
        ("run", "artifacts/w.txt", "different"),
        ("logged_model", "status", "different"),
        ("registered_model", "aliases.champion", "different"),
        ("registered_model", "description", "different"),
    }
    more = {
        ("run", "tags.more", "only_in_b"),
        ("run", 'metrics["loss"]', "different"),
        ("run", "", "only_in_b"),
        ("registered_model", "", "only_in_b"),
    }
    found = diff(small_bundle, second.uri, expect=3)
    assert told(found) == expected | more
    assert found["kinds"]["run"] == {"equal": 3, "different": 2, "only_in_a": 0, "only_in_b": 1}
    by_field = {d["field"]: d for d in found["differences"]}
    assert by_field["params.alpha"]["id"] == small.runs["first"]
    assert by_field["params.alpha"]["id_in_b"] == first
    assert by_field["params.alpha"]["experiment"] == "one"
    assert (by_field["params.alpha"]["a"], by_field["params.alpha"]["b"]) == ('"0.1"', '"0.2"')
    history = by_field['metrics["loss"]']
    assert history["a"] == "0 points of 5 only here"
    assert history["b"] == "1 point of 6 only here"
    assert "stale" in by_field["tags.mlflow.parentRunId"]["b"]
    # What only the server has is no fault where everything of the bundle is looked for.
    against = command("verify", small_bundle, "--against", second.uri, "--json", expect=3).report
    assert against["ok"] is True
    assert told(against["against"]) == expected
    # An import keeps the destination's values and says so; the verification goes by the bundle. It
    # rewrites a reference that was left behind, though: that completes what was brought.
    kept = import_(second, small_bundle, "--verify", expect=3)
    assert kept.report["lost"] == []
    assert told(kept.report["verification"]) == expected - {
        ("run", "tags.mlflow.parentRunId", "different")
    }
    assert counts(kept)["run"] == (3, 2)
    # The other way round each side has the other's place.
    other = diff(second.uri, third.uri, "--models", "churn", expect=3)
    assert ("registered_model", "aliases.champion", "different") in told(other)
    assert "prompt" not in other["kinds"]
    lines = command("diff", second.uri, small_bundle, "--quiet", expect=3).stdout.splitlines()
    assert "differences: 11" in lines
    assert "  registered model here only: only in A" in lines


def _experiment(here: Small, name: str) -> str:
    answer = here.call("experiments/get-by-name", method="GET", experiment_name=name)
    here.experiments[name] = str(answer["experiment"]["experiment_id"])
    return name


@pytest.mark.parametrize("has_run", [False, True])
def test_copies_of_a_version_with_files_of_its_own_are_compared_with_its_files(
    has_run: bool, empty_server: LendServer, tmp_path: Path
) -> None:
    source, server = empty_server(), empty_server()
    build = Small(source.uri)
    for name in ("own", "a copy", "copy of a copy"):
        build.model(name)
    build.experiment("e", "e")
    run = build.run("run", "e") if has_run else ""
    build.version("own", "s3://bucket/own", run_id=run)
    build.version("a copy", "models:/own/1")
    build.version("copy of a copy", "models:/a copy/1")
    place = tmp_path / "own"
    place.mkdir()
    (place / "weights").write_bytes(b"w")
    for column in ("source", "storage_location"):
        with contextlib.closing(sqlite3.connect(source.database, timeout=30)) as connection:
            connection.execute(
                f"UPDATE model_versions SET {column} = ? WHERE {column} = 's3://bucket/own'",
                (place.as_uri(),),
            )
            connection.commit()
    bundle = tmp_path / "f.mlbundle"
    words = ["--artifacts-destination", source.artifact_directory]
    command("export-all", "-o", bundle, "--tracking-uri", f"sqlite:///{source.database}", *words)
    done = import_(server, bundle, "--verify")
    assert counts(done)["model_version"] == (3, 0)
    # One run holds them for all three: the version's own, or one that was made for them.
    (held,) = (path for path in server.artifact_directory.rglob("weights"))
    held.write_bytes(b"W")
    assert told(diff(bundle, server.uri, expect=3)) == {
        ("model_version", "artifacts/weights", "different")
    }
    assert diff(bundle, server.uri, expect=3)["kinds"]["model_version"]["different"] == 3


def test_a_renamed_import_is_compared_under_its_new_names(
    small_bundle: Path, empty_server: LendServer, tmp_path: Path
) -> None:
    server = empty_server()
    (tmp_path / "users.csv").write_text("ana,ana@there\n")
    names = ["--experiment-name-prefix", "p/", "--rename-experiment", "one=eins"]
    names += ["--rename-model", "churn=stay"]
    asked = ["--user-map", str(tmp_path / "users.csv"), "--tag", "site=berlin"]
    done = import_(server, small_bundle, *names, *asked, "--verify")
    assert counts(done)["registered_model"] == (4, 0)
    found = diff(small_bundle, server.uri, *names, expect=3)
    fields = {(field, change) for _, field, change in told(found)}
    # The server's own Default has no counterpart: the bundle's has a prefix now.
    assert fields == {("tags.site", "only_in_b"), ("user_id", "different"), ("", "only_in_b")}
    verify = ["verify", small_bundle, "--against", server.uri, "--quiet"]
    command(*verify, *names, *asked)
    replaced = ["--use-src-user-id", "False", "--tag", "site=berlin"]
    command(*verify, *names, *replaced)
    without = diff(small_bundle, server.uri, expect=3)
    assert without["kinds"]["experiment"]["only_in_a"] == 3
    assert without["kinds"]["experiment"]["only_in_b"] == 4
    part = ["import", small_bundle, "--tracking-uri", server.uri, "--models", "churn/2"]
    again = command(*part, "--renumber", *names, *asked, "--verify", "--json", "--quiet")
    assert again.report["verification"]["kinds"]["model_version"]["equal"] == 1


def test_users_and_tags_are_expected_as_an_import_was_asked_to_set_them(
    genai_server: MlflowServer, empty_server: LendServer, tmp_path: Path
) -> None:
    bundle, server = tmp_path / "b.mlbundle", empty_server()
    export(genai_server, bundle)
    users = ("ana", "ana@example.org", "bo", "bo@example.org", "Jürgen")
    # Their order is another one then.
    mapped = "".join(f"{user},{9 - number}@new\n" for number, user in enumerate(users))
    (tmp_path / "users.csv").write_text(mapped, encoding="utf-8")
    asked = ["--user-map", str(tmp_path / "users.csv"), "--tag", "site=berlin"]
    done = import_(server, bundle, "--placeholder-secrets", *asked, "--verify", expect=None)
    verification = done.report["verification"]
    assert verification["differences"] == []
    assert verification["equal"] is True
    command("verify", bundle, "--against", server.uri, *asked, "--quiet")
    diff(bundle, server.uri, *asked, expect=0)
    without = told(diff(bundle, server.uri, expect=3))
    assert {(re.sub(r"\[.*\]", "[]", field), kind) for kind, field, _ in without} >= {
        *(("tags.site", kind) for kind in ("experiment", "run", "logged_model", "trace")),
        *(("tags.site", kind) for kind in ("prompt", "prompt_version", "dataset")),
        *(("tags.site", kind) for kind in ("gateway_endpoint", "mcp_server")),
        ("items[].tags", "mcp_server"),
        ("user_id", "run"),
        ("metadata.mlflow.user", "trace"),
        ("assessments[].source_id", "trace"),
        ("tags.mlflow.user", "dataset"),
        ("items[].tags", "dataset"),
        *(("created_by", kind) for kind in ("issue", "gateway_secret", "gateway_budget")),
        *(("created_by", kind) for kind in ("gateway_endpoint", "gateway_model_definition")),
        ("bindings[].created_by", "gateway_endpoint"),
        ("model_mappings[].created_by", "gateway_endpoint"),
        ("users", "review_queue"),
        ("items[].completed_by", "review_queue"),
        ("", "review_queue"),
    }


def test_a_selection_is_compared_alone(
    small_bundle: Path, small: Small, empty_server: LendServer
) -> None:
    server = empty_server()
    done = import_(server, small_bundle, "--models", "churn", "--verify", name="import-models")
    assert counts(done)["model_version"] == (3, 0)
    diff(small_bundle, server.uri, "--models", "churn", expect=0)
    against = ["verify", small_bundle, "--against", server.uri, "--quiet"]
    command(*against, "--models", "churn")
    command(*against, "--run-ids", small.runs["first"])
    command(*against, "--run-ids", small.runs["third"], expect=3)
    report = diff(small_bundle, server.uri, "--run-ids", small.runs["first"], expect=0)
    assert report["one_sided"] is True
    assert report["kinds"]["run"]["equal"] == 1
    missing = diff(small_bundle, server.uri, "--run-ids", small.runs["third"], expect=3)
    assert ("run", "", "only_in_a") in told(missing)
    none = command("diff", small_bundle, server.uri, "--models", "no*", expect=2)
    assert "nothing matches" in none.stderr


@pytest.mark.parametrize(
    ("words", "code", "fault"),
    [
        (["diff", "BUNDLE", "http://127.0.0.1:9"], 1, "127.0.0.1:9"),
        (["diff", "-", "-"], 2, "standard input"),
        (["diff", "CUT", "BUNDLE"], 4, "CUT"),
        (["verify", "BUNDLE", "--strict"], 2, "--against"),
        (["verify", "BUNDLE", "--tag", "site=berlin"], 2, "--against"),
        (["verify", "BUNDLE", "--models", "churn"], 2, "--against"),
        (["verify", "CUT", "--against", "http://127.0.0.1:9"], 4, "CUT"),
        (["import-all", "BUNDLE", "--verify", "--dry-run"], 2, "not both"),
    ],
)
def test_what_cannot_be_compared_ends_in_one_line(
    small_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    code: int,
    fault: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    shutil.copyfile(small_bundle, "BUNDLE")
    Path("CUT").write_bytes(small_bundle.read_bytes()[:-100])
    done = command(*words, expect=code)
    assert fault in done.stderr


def test_every_exemption_is_of_a_field_that_exists() -> None:
    version = {*ModelVersion.__struct_fields__, "id"}
    fields = {kind: {*record.__struct_fields__, "id"} for kind, record in RECORDS.items()}
    fields["run"] |= {*RunInfo.__struct_fields__}
    fields |= {"model_version": version, "prompt_version": version, "*": {"id"}}
    for exemption in EXEMPTIONS:
        assert exemption.reason
        name = exemption.field.partition(".")[0]
        assert exemption.kind in {*fields, "mcp_server"}
        assert (
            exemption.kind == "*"
            or name == "tags"
            or "[" in name
            or (name in fields[exemption.kind])
        ), exemption


def test_a_long_value_is_told_by_its_digest() -> None:
    long = text_of("x" * 5000)
    assert len(long) < 200
    assert long != text_of("x" * 4999 + "y")
    assert "5002 characters" in long
    assert AS_IT_IS.tags({"mlflow.user": "ana"}) == {"mlflow.user": "ana"}
