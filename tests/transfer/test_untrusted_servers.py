"""What a server says is as untrusted as what a bundle says, and what opens it stays secret."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import LendServer
from tests.servers import MlflowServer
from tests.transfer.commands import command
from tests.transfer.kinds.services import CANARY, assert_no_canary
from tests.transfer.small import Small

pytestmark = [pytest.mark.server, pytest.mark.slow]

HOSTILE = ("../../evil", "/etc/evil", "..", ".", "a\\..\\..\\evil", "CON", "evil\n.json", "~evil")


def _hostile(server: MlflowServer) -> Small:
    """Objects of every kind that takes a free name, under names that lead somewhere else."""
    build = Small(server.uri)
    for number, name in enumerate(HOSTILE):
        label = f"hostile {number}"
        build.experiment(label, name, {"name": name})
        build.run(label, label, name=name, tags={"name": name})
        build.call(
            "datasets/create",
            api="3.0",
            name=name,
            experiment_ids=[build.experiments[label]],
            tags=json.dumps({"../../evil": name}),
        )
        if "/" not in name and ":" not in name:
            build.model(f"model {name}")
            build.version(
                f"model {name}", f"runs:/{build.runs[label]}/model", run_id=build.runs[label]
            )
    return build


def test_names_that_lead_elsewhere_stay_inside_and_arrive(
    empty_server: LendServer, tmp_path: Path
) -> None:
    source, target = empty_server(), empty_server()
    _hostile(source)
    inside = tmp_path / "a" / "b" / "c"
    inside.mkdir(parents=True)
    bundle = tmp_path / "hostile.mlbundle"
    words = ("--tracking-uri", source.uri, "--quiet")
    command("export-all", "-o", bundle, *words)
    command("export-all", "--output-dir", inside / "exported", *words)
    command("extract", bundle, "-o", inside / "extracted", "--quiet")
    outside = [
        path
        for path in (tmp_path / "a").rglob("*")
        if not path.is_relative_to(inside) and path not in inside.parents
    ]
    assert outside == []
    assert {path.name for path in inside.iterdir()} == {"exported", "extracted"}
    command("import-all", bundle, "--tracking-uri", target.uri, "--quiet", expect=None)
    command("diff", bundle, target.uri, "--quiet")


def test_what_opens_a_server_is_written_nowhere(
    small_server: MlflowServer, small: Small, tmp_path: Path
) -> None:
    uri = small_server.uri.replace("://", f"://user:{CANARY}@")
    secrets = {
        "MLFLOW_TRACKING_TOKEN": CANARY,
        "AWS_SECRET_ACCESS_KEY": CANARY,
        "AWS_SESSION_TOKEN": CANARY,
        "DATABRICKS_TOKEN": CANARY,
        "MLFLOW_CRYPTO_KEK_PASSPHRASE": CANARY,
    }
    bundle = tmp_path / "s.mlbundle"
    commands = (
        ("export-all", "-o", bundle, "--tracking-uri", uri, "--verbose"),
        ("export-all", "-o", bundle, "--tracking-uri", uri, "--verbose"),  # it exists
        ("export-all", "-o", tmp_path / "t", "--tracking-uri", uri, "--json"),
        ("verify", bundle, "--against", uri, "--json"),
        ("diff", bundle, uri, "--verbose"),
        ("import-all", bundle, "--tracking-uri", uri, "--dry-run", "--verbose"),
        ("export", "-o", tmp_path / "u", "--tracking-uri", uri, "--models", "none such"),
        *(
            ("export-all", "-o", tmp_path / "v", "--tracking-uri", wrong)
            for wrong in (
                f"http://u:{CANARY}@127.0.0.1:9/",
                f"http://u:{CANARY}@no host/",
                f"oracle://u:{CANARY}@host/x",
                f"postgresql://u:{CANARY}@127.0.0.1:9/x",
                f"postgresql://u:a/{CANARY}@127.0.0.1:9/x",
                f"postgresql+none://u:{CANARY}@127.0.0.1:9/x",
                f"mysql://u:{CANARY}@127.0.0.1:9/x?password={CANARY}",
                f"sqlite://u:{CANARY}@host/x",
            )
        ),
    )
    said = [command(*words, expect=None, env=secrets) for words in commands]
    assert [done.exit_code for done in said[:6]] == [0, 1, 0, 0, 0, 0]
    assert all(done.exit_code in (1, 2) for done in said[6:])
    assert_no_canary(bundle, *said)
