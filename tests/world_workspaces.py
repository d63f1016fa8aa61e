"""A server with workspaces, where every name is taken in each of them.

What MLflow 3.17.2 refuses, and what therefore is not here: workspace names with anything but
lower-case letters, digits and hyphens; a second root for a server that keeps artifacts itself.
"""

from __future__ import annotations

import json

from tests import world_services, world_traces
from tests.world import World, _Build, _pairs
from tests.world_genai import foundations, issues
from tests.world_scorers import judge, register_scorer

WORKSPACES = ("default", "red", "blue")
"""The workspaces with contents; ``empty`` has none."""

REGISTERED_MODEL = "taken in each ünï"


def build_workspace_world(tracking_uri: str) -> dict[str, World]:
    """Fill a server started with ``workspaces=True``; return what each workspace holds."""
    build = _Build(tracking_uri)
    for name, description in (("red", "Rot ünï 😀"), ("blue", ""), ("empty", "nothing in it")):
        build.call("workspaces", api="3.0", name=name, description=description)
    return {name: _contents(_Build(tracking_uri, name), name) for name in WORKSPACES}


def _contents(build: _Build, workspace: str) -> World:
    foundations(build)
    build.run("measured", "genai", params={"where": workspace}, metrics={"m": [(1.0, 0, 0)]})
    files = {"where.txt": workspace.encode()}
    build.put_files(build.artifact_uri(build.runs["measured"]), files)
    issues(build)
    world_traces.sessions(build)
    trace_id = build.traces["turn_0"]
    assessment = world_traces.posted(trace_id, 1, feedback={"value": workspace})
    build.call(f"traces/{trace_id}/assessments", api="3.0", assessment=assessment)
    answer = build.call(
        "datasets/create",
        api="3.0",
        name="taken in each",
        experiment_ids=[build.experiments["genai"]],
        tags=json.dumps({"where": workspace}),
    )
    build.datasets["taken"] = dataset_id = answer["dataset"]["dataset_id"]
    records = json.dumps([{"inputs": {"where": workspace}, "outputs": None}])
    build.call(f"datasets/{dataset_id}/records", api="3.0", dataset_id=dataset_id, records=records)
    text = judge("taken", f"Ist {{{{ outputs }}}} {workspace}?", "openai:/gpt-4o")
    register_scorer(build, "taken", "genai", "taken", text)
    name = build.registered_models["taken"] = REGISTERED_MODEL
    build.call("registered-models/create", name=name, description=workspace)
    build.call(
        "model-versions/create",
        name=name,
        source=f"models:/{build.logged_models['genai']}",
        model_id=build.logged_models["genai"],
        run_id=build.runs["genai"],
        tags=_pairs({"where": workspace}),
    )
    world_services.mcp_servers(build)
    answer = build.call(
        "gateway/secrets/create",
        api="3.0",
        secret_name="taken",
        secret_value={"api_key": "sk-not-real"},
        provider="openai",
    )
    build.gateway["secret/taken"] = answer["secret"]["secret_id"]
    world_services.webhooks(build)
    build.call("runs/delete", run_id=build.runs["genai_deleted"])
    return build.world()
