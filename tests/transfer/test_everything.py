"""Everything that a server holds arrives, row for row: every table of users' data, ids translated.

The databases themselves are compared (`tests/tables.py`), with what REST cannot set written out in
`tests/table_exemptions.py`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.compare import row_dump
from tests.conftest import LendServer
from tests.installed import has
from tests.servers import MlflowServer
from tests.table_exemptions import EXEMPT, Exemption
from tests.tables import USER_TABLES, Comparison, changed_rows, compare_databases
from tests.transfer.commands import Done, command, export, import_
from tests.world import World

pytestmark = [pytest.mark.server, pytest.mark.slow]

SECRETS = "--placeholder-secrets"

IN_EXPERIMENTS = (
    "experiments",
    "experiment_tags",
    "runs",
    "tags",
    "params",
    "metrics",
    "latest_metrics",
    "logged_models",
    "trace_info",
    "trace_tags",
    "trace_request_metadata",
    "spans",
    "assessments",
    "issues",
    *(("issue_categories",) if has(3, 18) else ()),
    "scorers",
    "label_schemas",
    "review_queues",
    "review_queue_items",
)


@pytest.fixture(scope="module")
def exported(
    full_server: MlflowServer, full_world: World, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Done]:
    """``export-all`` of the full world, which it must leave as it is."""
    path = tmp_path_factory.mktemp("everything") / "full.mlbundle"
    before = row_dump(full_server.database)
    done = export(full_server, path, expect=None)
    assert list(changed_rows(before, full_server.database)) == []
    return path, done


def shown(what: str, comparison: Comparison) -> None:
    print(f"{what}: {comparison}")
    for line in comparison.differences:
        print(" ", line)
    for reason, count in sorted(comparison.passed_over.items()):
        print(f"  {count} passed over: {reason}")


def test_everything_arrives_row_for_row_and_a_second_import_changes_nothing(
    full_server: MlflowServer, exported: tuple[Path, Done], empty_server: LendServer
) -> None:
    bundle, done = exported
    # Buckets that nobody can read here; everything else is there.
    lost = [loss for loss in done.report["lost"] if "s3://bucket/" not in loss["reason"]]
    assert lost == []
    command("verify", bundle)
    destination = empty_server()
    imported = import_(destination, bundle, SECRETS, expect=None)
    comparison = compare_databases(full_server.database, destination.database)
    shown("full world", comparison)
    assert imported.report["lost"] == []
    assert comparison.differences == []
    assert set(USER_TABLES) <= comparison.rows.keys()
    before = row_dump(destination.database)
    again = import_(destination, bundle, SECRETS)
    assert list(changed_rows(before, destination.database)) == []
    assert again.report["lost"] == []
    assert again.report["conflicts"] == []


def test_two_servers_merge_into_one_without_mixing(
    full_server: MlflowServer,
    exported: tuple[Path, Done],
    genai_server: MlflowServer,
    genai_world: World,
    empty_server: LendServer,
    tmp_path: Path,
) -> None:
    bundle, _ = exported
    second = tmp_path / "second.mlbundle"
    export(genai_server, second)
    destination = empty_server()
    # Both have experiments and a prompt of the same names.
    prompt = next(iter(genai_world.prompts.values()))
    renames = ("--experiment-name-prefix", "second/", "--rename-model", f"{prompt}=second")
    import_(destination, second, SECRETS, *renames, expect=None)
    import_(destination, bundle, SECRETS, "--on-conflict", "update", expect=None)
    renamed = Exemption(
        "spans",
        "content",
        "the prompt's new name",
        same=lambda text: text.replace(prompt, "second"),
    )
    # What has a name for the whole server, such as an endpoint, became one and is the first's.
    comparison = compare_databases(
        genai_server.database,
        destination.database,
        tables=IN_EXPERIMENTS,
        exempt=(*EXEMPT, renamed),
        may_have_more=True,
        experiment_name=lambda name: f"second/{name}",
        model_name=lambda name: "second" if name == prompt else name,
    )
    shown("merged, second", comparison)
    assert comparison.differences == []
    comparison = compare_databases(full_server.database, destination.database, may_have_more=True)
    shown("merged, first", comparison)
    assert comparison.differences == []


def test_a_bundle_that_comes_home_finds_its_own(
    filled_genai_server: LendServer, empty_server: LendServer, tmp_path: Path
) -> None:
    """A -> B -> C -> A changes nothing at A."""
    a, b, c = filled_genai_server(), empty_server(), empty_server()
    before = row_dump(a.database)
    for number, (source, destination) in enumerate(((a, b), (b, c), (c, a))):
        bundle = tmp_path / f"{number}.mlbundle"
        export(source, bundle)
        import_(destination, bundle, SECRETS)
    assert list(changed_rows(before, a.database)) == []


def test_one_model_comes_with_what_it_needs_and_nothing_else(
    full_server: MlflowServer,
    full_world: World,
    exported: tuple[Path, Done],
    empty_server: LendServer,
) -> None:
    bundle, _ = exported
    destination = empty_server()
    name = full_world.registered_models["iris"]
    import_(destination, bundle, "--models", name, name="import", expect=None)
    comparison = compare_databases(full_server.database, destination.database, may_lack=True)
    shown("one model", comparison)
    assert comparison.differences == []
    assert comparison.rows["registered_models"] == 1
