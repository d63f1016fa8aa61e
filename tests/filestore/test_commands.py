"""Commands take a file store where they take a server to read from."""

from __future__ import annotations

from pathlib import Path

from tests.transfer.commands import command


def test_a_copy_into_a_database_equals_it(store: Path, tmp_path: Path) -> None:
    to = f"sqlite:///{tmp_path}/mlflow.db"
    artifacts = ("--to-artifacts-destination", tmp_path / "artifacts")
    done = command("copy", "--tracking-uri", store, "--to", to, *artifacts, "--json")
    assert done.report["lost"] == []
    odd = {key for key in done.report["adjusted"] if "database" in key}
    assert odd == {
        "run.metrics (infinity, which the database cannot hold)",
        "logged_model.metrics (NaN or infinity, which the database cannot hold)",
    }
    compared = ("--b-artifacts-destination", tmp_path / "artifacts")
    report = command("diff", store, to, *compared, "--json").report
    odd = {"run.logged_metrics[]": 1, "logged_model.logged_metrics[]": 1}
    assert odd.items() <= report["not_compared"].items()
    report = command("diff", store, to, *compared, "--strict", "--json", expect=3).report
    fields = {difference["field"] for difference in report["differences"]}
    assert {'logged_metrics["m"]', 'logged_metrics["n"]'} <= fields
    assert not any(field.startswith("metrics") for field in fields)
    again = command("copy", "--tracking-uri", store.as_uri(), "--to", to, *artifacts, "--json")
    assert again.report["done"] == {}


def test_a_bundle_of_it_is_all_there(store: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "x.mlbundle"
    done = command("export-all", "-o", bundle, "--tracking-uri", store, "--json")
    assert done.report["lost"] == []
    command("verify", bundle, "--against", store)
    to = f"sqlite:///{tmp_path}/mlflow.db"
    command(
        *("import-all", bundle, "--tracking-uri", to, "--verify"),
        *("--artifacts-destination", tmp_path / "artifacts"),
    )


def test_it_is_no_destination(store: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "x.mlbundle"
    command("export-all", "-o", bundle, "--tracking-uri", store)
    done = command("import-all", bundle, "--tracking-uri", store, expect=2)
    assert "which is only read" in done.stderr
    assert "sqlite:///mlflow.db" in done.stderr
    done = command("copy", "--tracking-uri", store, "--to", store, expect=2)
    assert "which is only read" in done.stderr


def test_another_directory_is_refused(tmp_path: Path) -> None:
    done = command(
        "export-all", "-o", tmp_path / "x.mlbundle", "--tracking-uri", tmp_path, expect=2
    )
    assert "no directory of MLflow's file store" in done.stderr
