"""A server that answers wrongly now and then: nothing is lost silently, nothing is made twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import ViewType

from tests.compare import Snapshot, differences, snapshot
from tests.conftest import LendServer
from tests.servers import MlflowServer
from tests.tables import compare_databases
from tests.transfer.commands import command
from tests.transfer.faults import DROPPED, Answer, Fault, Weather, faulty
from tests.transfer.kills import members_of
from tests.transfer.small import Small, build_small
from tests.world_traces import SpanSpec, log_spans, start_trace, trace_location

pytestmark = [pytest.mark.server, pytest.mark.slow]


def once(method: str, ending: str, bent: Answer) -> Fault:
    """A fault that bends the first answer to a request of that method and path ending."""
    left = [1]

    def fault(asked: str, path: str, true: Answer) -> Answer:
        if left[0] and asked == method and path.partition("?")[0].endswith(ending):
            left[0] -= 1
            return bent
        return true

    return fault


def test_a_login_page_instead_of_an_artifact_is_a_loss(
    empty_server: LendServer, tmp_path: Path
) -> None:
    source = empty_server()
    build_small(source.uri)

    def login(method: str, path: str, true: Answer) -> Answer:
        if method == "GET" and path.endswith("/MLmodel"):
            return Answer(200, "text/html", b"<html>please log in</html>")
        return true

    with faulty(source.uri, login) as uri:
        done = command(
            "export-all", "-o", tmp_path / "a.mlbundle", "--tracking-uri", uri, "--json", expect=3
        )
    lost = [loss for loss in done.report["lost"] if loss["kind"] == "artifact"]
    assert lost
    assert all("listing says" in loss["reason"] for loss in lost)


def test_what_a_proxy_does_not_let_through_is_not_taken_for_what_an_old_server_lacks(
    small_server: MlflowServer, small: Small, tmp_path: Path
) -> None:
    closed = ["/api/3.0/", "/logged-models/search"]

    def refuse(method: str, path: str) -> Answer | None:
        if any(part in path for part in closed):
            return Answer(404, "text/html", b"<h1>404 Not Found</h1>")
        return None

    with faulty(small_server.uri, instead=refuse) as uri:
        words = ("export-all", "--tracking-uri", uri, "--json")
        known = command(*words, "-o", tmp_path / "a.mlbundle", expect=3)
        closed[1:] = ["/version"]
        unknown = command(*words, "-o", tmp_path / "b.mlbundle")
    lost = {loss["kind"]: loss["reason"] for loss in known.report["lost"] if loss["id"] == "all"}
    assert {"trace", "dataset", "scorer", "logged_model"} <= set(lost)
    assert all("does not let it through" in reason for reason in lost.values())
    (note,) = (note for note in unknown.report["notes"] if "its version" in note)
    assert all(kind in note for kind in lost if kind != "logged_model")


def test_logged_models_that_a_proxy_does_not_let_list_are_not_made_twice(
    small_server: MlflowServer, small_bundle: Path, empty_server: LendServer
) -> None:
    def refuse(method: str, path: str) -> Answer | None:
        return Answer(404, "", b"") if path.endswith("/logged-models/search") else None

    destination = empty_server()
    with faulty(destination.uri, instead=refuse) as uri:
        for _ in range(2):
            done = command("import-all", small_bundle, "--tracking-uri", uri, "--json", expect=3)
            assert any("logged models: 404" in loss["reason"] for loss in done.report["lost"])
    command("import-all", small_bundle, "--tracking-uri", destination.uri)
    assert compare_databases(small_server.database, destination.database).differences == []


def test_files_of_a_trace_that_a_proxy_does_not_let_through_are_lost(
    empty_server: LendServer, tmp_path: Path
) -> None:
    source = empty_server(artifacts="local")
    build = Small(source.uri)
    build.experiment("e", "e")
    in_files = {"mlflow.trace.spansLocation": "ARTIFACT_REPO"}
    trace = start_trace(build, "t", "e", tags=in_files)
    build.put_files(trace_location(build, trace), {"traces.json": b'{"spans": []}'})

    def refuse(method: str, path: str) -> Answer | None:
        return Answer(404, "text/html", b"<h1>404</h1>") if path.startswith("/ajax-api/") else None

    with faulty(source.uri, instead=refuse) as uri:
        words = ("--tracking-uri", uri, "-o", tmp_path / "a.mlbundle", "--json")
        done = command("export-all", *words, expect=3)
    assert trace in {id.partition("/")[0] for _, id, _ in done.losses}


@pytest.mark.parametrize(
    ("ending", "bent"),
    [
        ("/runs/create", Answer(504, "text/html", b"late")),
        ("/logged-models", Answer(504, "text/html", b"late")),
        ("/model-versions/create", Answer(504, "text/html", b"late")),
        ("/model-versions/create", Answer(500, "application/json", b'{"error_code":"X"}')),
        ("/experiments/create", Answer(503, "application/json", b"{}")),
    ],
)
def test_an_answer_that_got_lost_makes_nothing_twice(
    ending: str, bent: Answer, empty_server: LendServer, tmp_path: Path
) -> None:
    source, destination = empty_server(), empty_server()
    build_small(source.uri)
    file = tmp_path / "a.mlbundle"
    command("export-all", "-o", file, "--tracking-uri", source.uri)
    with faulty(destination.uri, once("POST", ending, bent)) as uri:
        command("import-all", file, "--tracking-uri", uri, expect=None)
    command("import-all", file, "--tracking-uri", destination.uri)
    assert differences(snapshot(source.uri), snapshot(destination.uri)) == []


def test_the_first_loss_ends_an_export_if_asked_and_the_same_command_completes_it(
    small_server: MlflowServer, small_snapshot: Snapshot, empty_server: LendServer, tmp_path: Path
) -> None:
    is_broken = True

    def forbid(method: str, path: str, true: Answer) -> Answer:
        if is_broken and path.partition("?")[0].endswith(("/notes.txt", "/w.txt", "/model.pkl")):
            return Answer(403, "application/json", b"{}")
        return true

    file = tmp_path / "a.mlbundle"
    with faulty(small_server.uri, forbid) as uri:
        words = ["export-all", "-o", file, "--tracking-uri", uri, "--fail-fast"]
        stopped = command(*words, "--json", expect=1)
        assert len(stopped.report["lost"]) == 1
        assert stopped.report["stopped"] is True
        assert not file.exists()
        told = command(*words, expect=1).stderr.splitlines()
        assert told[-2].startswith("  artifact ")
        assert told[-1].startswith("stopped at the first loss")
        is_broken = False
        command(*words)
    destination = empty_server()
    command("import-all", file, "--tracking-uri", destination.uri)
    assert differences(small_snapshot, snapshot(destination.uri)) == []


def test_an_export_with_losses_is_completed_by_asking_only_for_them(
    small_server: MlflowServer, small_snapshot: Snapshot, empty_server: LendServer, tmp_path: Path
) -> None:
    is_broken = True
    read: list[str] = []

    def forbid(method: str, path: str, true: Answer) -> Answer:
        read.append(path.partition("?")[0])
        if is_broken and read[-1].endswith("/notes.txt"):
            return Answer(403, "application/json", b"{}")
        return true

    old, new = tmp_path / "old.mlbundle", tmp_path / "new.mlbundle"
    with faulty(small_server.uri, forbid) as uri:
        words = ["export-all", "--tracking-uri", uri, "-o"]
        command(*words, old, expect=3)
        is_broken = False
        read.clear()
        command(*words, new, "--complete", old)
        files = [path.rpartition("/")[2] for path in read if "/artifacts/" in path]
        assert files == ["notes.txt"]
        assert not [path for path in read if "metrics" in path]
        refused = command(*words, tmp_path / "x", "--complete", new, expect=2)
        assert "lists no losses" in refused.stderr
        other = command("export-models", *words[1:], tmp_path / "x", "--complete", old, expect=2)
        assert "is an export of another selection" in other.stderr
    command("verify", new)
    destination = empty_server()
    command("import-all", new, "--tracking-uri", destination.uri)
    assert differences(small_snapshot, snapshot(destination.uri)) == []


@pytest.mark.parametrize("listing", ["/registered-models/search", "/runs/search"])
def test_what_a_listing_that_was_lost_tells_of_others_is_completed_too(
    listing: str, filled_genai_server: Callable[[], MlflowServer], tmp_path: Path
) -> None:
    is_broken = True

    def forbid(method: str, path: str, true: Answer) -> Answer:
        if is_broken and path.partition("?")[0].endswith(listing):
            return Answer(403, "application/json", b"{}")
        return true

    whole, old, new = (tmp_path / f"{name}.mlbundle" for name in ("whole", "old", "new"))
    with faulty(filled_genai_server().uri, forbid) as uri:
        words = ["export-all", "--tracking-uri", uri, "-o"]
        command(*words, old, expect=3)
        is_broken = False
        command(*words, new, "--complete", old)
        command(*words, whole)
    command("diff", whole, new)


def test_the_first_loss_ends_an_import_if_asked_and_the_same_command_completes_it(
    small_bundle: Path, small_snapshot: Snapshot, empty_server: LendServer
) -> None:
    destination = empty_server()
    is_broken = True

    def forbid(method: str, path: str) -> Answer | None:
        if is_broken and path.endswith("/runs/log-batch"):
            return Answer(403, "application/json", b"{}")
        return None

    with faulty(destination.uri, instead=forbid) as uri:
        words = ["import-all", small_bundle, "--tracking-uri", uri, "--fail-fast", "--json"]
        words += ["--jobs", "2"]
        stopped = command(*words, expect=1)
        assert stopped.report["lost"]
        assert stopped.report["stopped"] is True
        assert stopped.report["done"].get("registered_model", 0) == 0
        is_broken = False
        command(*words)
    assert differences(small_snapshot, snapshot(destination.uri)) == []


def test_a_later_import_sends_only_what_was_lost(
    small_bundle: Path, small_snapshot: Snapshot, empty_server: LendServer
) -> None:
    destination = empty_server()
    is_broken = True
    sent: list[tuple[str, str]] = []

    def forbid(method: str, path: str) -> Answer | None:
        endpoint = path.partition("?")[0]
        if method != "GET" and not endpoint.endswith("/search"):
            sent.append((method, endpoint))
        if is_broken and endpoint.endswith("/notes.txt"):
            return Answer(403, "application/json", b"{}")
        return None

    with faulty(destination.uri, instead=forbid) as uri:
        words = ["import-all", small_bundle, "--tracking-uri", uri, "--json"]
        lost = command(*words, expect=3).losses
        assert [kind for kind, _, _ in lost] == ["artifact"]
        is_broken = False
        sent.clear()
        again = command(*words)
        # Besides, the experiments say meanwhile that an import is working on them.
        others = [path for _, path in sent if not path.endswith("-experiment-tag")]
        assert [path.rpartition("/")[2] for path in others] == ["notes.txt"]
        assert again.report["done"] == {"artifact": 1, "run": 1}
    assert differences(small_snapshot, snapshot(destination.uri)) == []


@pytest.mark.parametrize("seed", [1, 2])
def test_a_bad_connection_loses_nothing(
    seed: int,
    small_server: MlflowServer,
    small_bundle: Path,
    empty_server: LendServer,
    tmp_path: Path,
) -> None:
    bundle = tmp_path / "a.mlbundle"
    weather = Weather(seed, rate=0.08)
    with faulty(small_server.uri, weather.bend, instead=weather.instead) as uri:
        # One request may fail for good, now and then: that is a loss, or ends the command when it
        # is the first one; then it is given again.
        for _ in range(3):
            words = ["export-all", "-o", bundle, "--force", "--tracking-uri", uri, "--json"]
            done = command(*words, expect=None)
            if done.exit_code == 0:
                break
        assert done.report["lost"] == []
    assert len(weather.met) > 3
    expected, found = members_of(small_bundle), members_of(bundle)
    assert found.keys() == expected.keys()
    shown = uri.encode(), small_server.uri.encode()
    assert [m for m in found if found[m].replace(*shown) != expected[m]] == []

    destination = empty_server()
    weather = Weather(seed, rate=0.08)
    with faulty(destination.uri, weather.bend, instead=weather.instead) as uri:
        for _ in range(5):
            words = ["import-all", small_bundle, "--tracking-uri", uri, "--json"]
            if command(*words, expect=None).exit_code == 0:
                break
    assert len(weather.met) > 3
    last = command("import-all", small_bundle, "--tracking-uri", destination.uri, "--json")
    assert last.report["done"] == {}
    assert compare_databases(small_server.database, destination.database).differences == []


def test_what_is_deleted_at_the_source_is_deleted_when_all_of_it_has_arrived(
    empty_server: LendServer, tmp_path: Path
) -> None:
    """Into a deleted run or experiment nothing comes any more: its deletion waits for losses."""
    source, destination = empty_server(), empty_server()
    build = Small(source.uri)
    build.experiment("one", "one")
    build.experiment("gone", "gone")
    for run, experiment in (("in_gone", "gone"), ("deleted", "one")):
        model_id = build.logged_model(
            run,
            experiment,
            name="tree",
            source_run_id=build.run(run, experiment, params={"a": "1"}, metrics={"m": [(1, 0, 0)]}),
            files={"notes.txt": b"of a model"},
        )
        run_id = build.runs[run]
        build.put_files(build.artifact_uri(run_id), {"notes.txt": b"of a run"})
        build.call("runs/outputs", run_id=run_id, models=[{"model_id": model_id, "step": 0}])
        build.log_metrics(run_id, {"of model": [(2, 0, 0)]}, model_id=model_id)
    start_trace(build, "in_gone", "gone")
    log_spans(build, build.traces["in_gone"], "gone", [SpanSpec(name="root")])
    build.call(f"logged-models/{build.logged_models['deleted']}", method="DELETE")
    build.call("runs/delete", run_id=build.runs["deleted"])
    build.call("experiments/delete", experiment_id=build.experiments["gone"])
    bundle = tmp_path / "a.mlbundle"
    command("export-all", "-o", bundle, "--tracking-uri", source.uri)

    content = ("/notes.txt", "/v1/traces")
    for status, *endings in (
        (403, *content),
        (413, *content),
        (401, *content),
        (403, "/runs/create"),
        (403, "/runs/delete-tag"),
    ):
        destination.reset()
        answer = Answer(status, "application/json", b"{}")

        def forbid(
            method: str, path: str, endings: list[str] = endings, answer: Answer = answer
        ) -> Answer | None:
            is_met = method != "GET" and path.partition("?")[0].endswith(tuple(endings))
            return answer if is_met else None

        with faulty(destination.uri, instead=forbid) as uri:
            words = ["import-all", bundle, "--json", "--tracking-uri"]
            lost = command(*words, uri, expect=3).losses
        assert ("experiment", build.experiments["gone"], "lifecycle_stage") in lost
        command(*words, destination.uri, "--verify")
        assert compare_databases(source.database, destination.database).differences == []

    # Files may come later than all else: stores know of no deletion.
    destination.reset()
    command(*words, destination.uri, "--artifacts", "skip")
    later = command(*words, destination.uri, "--verify").report
    assert later["done"] == {"artifact": 6, "run": 2, "logged_model": 2}
    assert command(*words, destination.uri).report["done"] == {}


def test_points_that_come_later_than_a_deletion_are_losses(
    empty_server: LendServer, tmp_path: Path
) -> None:
    source, destination = empty_server(), empty_server()
    build = Small(source.uri)
    build.experiment("one", "one")
    run_id = build.run("run", "one", metrics={"m": [(1, 0, 0)]})
    build.call("runs/delete", run_id=run_id)
    old, new = tmp_path / "old.mlbundle", tmp_path / "new.mlbundle"

    def forbid(method: str, path: str) -> Answer | None:
        is_met = "/metrics/get-history" in path
        return Answer(403, "application/json", b"{}") if is_met else None

    with faulty(source.uri, instead=forbid) as uri:
        command("export-all", "-o", old, "--tracking-uri", uri, expect=3)
    command("export-all", "-o", new, "--tracking-uri", source.uri)
    words = ["--json", "--tracking-uri", destination.uri]
    command("import-all", old, *words)
    lost = command("import-all", new, *words, expect=3).losses
    assert lost == [("run", run_id, 'metrics["m"]')]

    here = MlflowClient(destination.uri)
    experiment = here.get_experiment_by_name("one")
    assert experiment is not None
    (run,) = here.search_runs([experiment.experiment_id], run_view_type=ViewType.DELETED_ONLY)
    here.restore_run(run.info.run_id)
    command("import-all", new, *words, "--verify")
    assert command("import-all", new, *words).report["done"] == {}


def test_a_deletion_waits_for_what_was_lost_with_another_experiment(
    empty_server: LendServer, tmp_path: Path
) -> None:
    source, destination = empty_server(), empty_server()
    build = Small(source.uri)
    for name, other in (("one", "two"), ("two", "one")):
        build.experiment(name, name)
        build.logged_model(other, name, name="tree", files={})
    for name in ("one", "two"):
        run_id = build.run(name, name)
        model = {"model_id": build.logged_models[name]}  # that of the other experiment
        build.call("runs/log-inputs", run_id=run_id, models=[model])
        build.call("runs/delete", run_id=run_id)
    bundle = tmp_path / "a.mlbundle"
    command("export-all", "-o", bundle, "--tracking-uri", source.uri)
    left = [1]

    def refuse_one(method: str, path: str) -> Answer | None:
        if left and path.endswith("/experiments/create"):
            left.pop()
            return Answer(403, "application/json", b"{}")
        return None

    words = ["import-all", bundle, "--tracking-uri"]
    with faulty(destination.uri, instead=refuse_one) as uri:
        command(*words, uri, expect=3)
    command(*words, destination.uri, "--verify")
    assert compare_databases(source.database, destination.database).differences == []


def test_a_model_is_made_once_when_the_answer_got_lost(
    empty_server: LendServer, tmp_path: Path
) -> None:
    source, destination = empty_server(), empty_server()
    build = Small(source.uri)
    build.model("churn", "who leaves", team="b")
    build.model("plain")
    build.model("prompt", **{"mlflow.prompt.is_prompt": "true"})
    bundle = tmp_path / "a.mlbundle"
    command("export-all", "-o", bundle, "--tracking-uri", source.uri)
    made = []

    def lose_answers(method: str, path: str, true: Answer) -> Answer:
        if path.endswith("/registered-models/create") and true.status == 200:
            made.append(path)
            return DROPPED
        return true

    with faulty(destination.uri, lose_answers) as uri:
        command("import-all", bundle, "--tracking-uri", uri)
    assert len(made) == 3
    assert compare_databases(source.database, destination.database).differences == []


@pytest.mark.parametrize("is_made", [True, False])
def test_runs_and_logged_models_come_at_once_though_the_answer_got_lost(
    is_made: bool, empty_server: LendServer, tmp_path: Path
) -> None:
    """As where the server restarts: it may have made them or not."""
    source, destination = empty_server(), empty_server()
    build_small(source.uri)
    bundle = tmp_path / "a.mlbundle"
    command("export-all", "-o", bundle, "--tracking-uri", source.uri)
    left = {"/runs/create": 2, "/logged-models": 1}

    def is_lost(method: str, path: str) -> bool:
        ending = next((e for e in left if method == "POST" and path.endswith(e) and left[e]), None)
        if ending is not None:
            left[ending] -= 1
        return ending is not None

    def lose_answer(method: str, path: str, true: Answer) -> Answer:
        return DROPPED if is_made and is_lost(method, path) else true

    def lose_request(method: str, path: str) -> Answer | None:
        return DROPPED if not is_made and is_lost(method, path) else None

    with faulty(destination.uri, lose_answer, instead=lose_request) as uri:
        command("import-all", bundle, "--tracking-uri", uri)
    assert set(left.values()) == {0}
    assert differences(snapshot(source.uri), snapshot(destination.uri)) == []


def test_a_deletion_whose_answer_got_lost_is_no_loss(
    empty_server: LendServer, tmp_path: Path
) -> None:
    source, destination = empty_server(), empty_server()
    build = Small(source.uri)
    build.experiment("gone", "gone")
    run_id = build.run("run", "gone")
    build.logged_model("tree", "gone", name="tree", source_run_id=run_id, files={})
    build.call("experiments/delete", experiment_id=build.experiments["gone"])
    bundle = tmp_path / "a.mlbundle"
    command("export-all", "-o", bundle, "--tracking-uri", source.uri)
    left = {"/runs/delete-tag", "/tags/mlflow_bundle.state", "/experiments/delete"}

    def lose_each_once(method: str, path: str, true: Answer) -> Answer:
        met = {ending for ending in left if path.partition("?")[0].endswith(ending)}
        left.difference_update(met)
        return DROPPED if met else true

    with faulty(destination.uri, lose_each_once) as uri:
        command("import-all", bundle, "--tracking-uri", uri)
    assert left == set()
    assert compare_databases(source.database, destination.database).differences == []
