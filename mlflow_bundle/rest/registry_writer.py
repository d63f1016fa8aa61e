"""Writes one registered model or prompt to a server, versions under their own numbers.

A server numbers versions itself: one more than the highest number ever used in the model's life. A
gap is therefore kept by making a version that only holds the number, tagged as a filler, and
deleting it at once; a number that is taken already can never be had again.

Deleted versions count and no server shows them. The first version that is made in a model that was
there before therefore shows which number comes next: it is tagged as a filler until it turns out to
have its own.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from mlflow.utils.uri import is_local_uri

from mlflow_bundle import provenance
from mlflow_bundle.contracts import ArtifactTree, Content
from mlflow_bundle.entities import PROMPT_TAG, VERSION_KIND, ModelVersion, Prompt, RegisteredModel
from mlflow_bundle.errors import SelectionError, ServerError, SinkError
from mlflow_bundle.references import (
    PROMPT_EXPERIMENTS_TAG,
    files_of,
    join_experiments,
    logged_model_id_of,
    model_version_of,
    moved_experiments,
    rewrite_version_source,
    run_id_of,
)
from mlflow_bundle.report import Report
from mlflow_bundle.rest import records
from mlflow_bundle.rest.artifacts import PROXY_SCHEME, ArtifactOwner
from mlflow_bundle.rest.destination import Destination
from mlflow_bundle.rest.experiments import experiment_named, get_experiment
from mlflow_bundle.rest.registry import list_registry
from mlflow_bundle.rest.session import API
from mlflow_bundle.rest.upload import ArtifactWriter
from mlflow_bundle.version_files import HELD_DIRECTORY, HOLDER_DIRECTORY

MAX_GAP = 1000
"""Numbers that fillers use up for one version: each costs the server two requests."""

_PAUSES_S = (1.0, 3.0)

_FILLER_SOURCE = "s3://mlflow-bundle/filler"
_PROMPT_SOURCE = "dummy-source"
_UNSETTABLE = ("creation_timestamp", "last_updated_timestamp")
_FIRST_EXPERIMENT = "0"
_HOLDERS_EXPERIMENT = "files of model versions"
"""Where that of a server is deleted, or not in the workspace."""
_NO_LOGGED_MODELS = "its logged model cannot be held by the server (they came with MLflow 3.0)"


class RegistryWriter:
    """Writes registered models and prompts.

    Args:
        destination: The server.
        registry: What its registry holds, by name; updated as models are written.
    """

    def __init__(self, destination: Destination, registry: dict[str, RegisteredModel]) -> None:
        self._to = destination
        self._registry = registry
        self._given_out: dict[str, int] = {}
        """Highest number that the server gave, by name: deleted versions are invisible."""
        self._surveyed: set[str] = set()
        """Names of which this import knows the next number."""
        self._numbered: dict[str, bool] = {}
        """Prompts that :meth:`number` was called for, by name here: whether it made them."""
        self._runs: dict[str, str] = {}
        """Runs at the source of the versions that have their place, by name and number here."""
        self._holders = ""
        """Experiment of the runs that hold files of versions, once it is known."""

    def name_here(self, model: RegisteredModel) -> str:
        """Name of the model at the server."""
        return self._to.options.rename_models.get(model.name, model.name)

    def check(self, model: RegisteredModel) -> None:
        """Refuse what would use up numbers of versions that were left out of the selection.

        Raises:
            SelectionError: Earlier versions are in the bundle but not selected.
        """
        if self._to.options.renumber:
            return
        here = self._here(model)
        highest = max((v.version for v in here.versions), default=0) if here else 0
        new = [v.version for v in model.versions if v.version > highest]
        burned = [n for n in model.left_out if highest < n < max(new, default=0)]
        if burned:
            numbers = ", ".join(map(str, burned[:10])) + (" ..." if len(burned) > 10 else "")
            raise SelectionError(
                f"{model.name}: importing version {max(new)} alone would use up the numbers of "
                f"its earlier versions {numbers} for ever",
                hint="--with-earlier-versions imports them too, --renumber gives the next free "
                "number instead",
            )

    def _here(self, model: RegisteredModel) -> RegisteredModel | None:
        """The server's model of that name, as if it were deleted already if it will be."""
        if self._to.options.delete_model:
            return None
        return self._registry.get(self.name_here(model))

    def examine(self, content: Content) -> None:
        """Report every conflict without writing."""
        model = content.entity
        assert isinstance(model, RegisteredModel)
        here = self._here(model)
        self._note_deletion(model, "would be deleted")
        if here is not None and here.kind != model.kind:
            self._to.report.conflict(
                model.kind, model.name, "kind", f"the destination has a {_noun(here.kind)} there"
            )
        elif here is not None:
            self._to.report.found(model.kind)
            self._compare_model(model, here, self._model_tags(model))
            numbers: dict[int, int] = {}
            for version in model.versions:
                twin = _twin(version, here)
                if twin is not None:
                    numbers[version.version] = twin.version
                    self._to.report.found(VERSION_KIND[model.kind])
                    self._compare_version(model, version, twin)
                elif not self._to.options.renumber and not self._number_is_free(
                    model, version, here
                ):
                    self._lose_number(model, version)
            self._new_aliases(model, here.aliases, numbers)

    def _note_deletion(self, model: RegisteredModel, what: str) -> None:
        here = self._registry.get(self.name_here(model))
        if self._to.options.delete_model and here is not None:
            numbers = ", ".join(str(v.version) for v in here.versions) or "none"
            self._to.report.note(f"{here.name} {what} at the destination, with versions {numbers}")

    def number(self, prompt: Prompt, *, dry: bool) -> None:
        """Give the versions of a prompt new numbers, before anything is written that names them.

        They are made without what they name themselves; :meth:`write` completes them.
        """
        name = self.name_here(prompt)
        if not dry:
            self._delete_first(prompt, name)
        here = self._here(prompt) if dry else self._registry.get(name)
        if here is not None and here.kind != prompt.kind:
            # Refused when it is written.
            return
        if not dry:
            self._numbered[name] = here is None
        if here is None and not dry:
            tags = self._model_tags(prompt, Report())
            # Its experiments have no ids here yet.
            tags.pop(PROMPT_EXPERIMENTS_TAG, None)
            here = self._make_model(prompt, name, tags)
        for version in prompt.versions:
            twin = _twin(version, here) if here is not None else None
            number = twin.version if twin is not None else None
            if number is None and not dry:
                number = self._create_version(prompt, version, name, None, complete=False)
            if number is not None:
                self._place_version(prompt, version, name, number)

    def _delete_first(self, model: RegisteredModel, name: str) -> None:
        """Delete what the server has under the name, where that was asked for."""
        if self._to.options.delete_model and name in self._registry:
            self._note_deletion(model, "was deleted")
            self._post("registered-models/delete", {"name": name}, method="DELETE")
            del self._registry[name]
            self._given_out.pop(name, None)
            self._surveyed.discard(name)

    def write(self, content: Content) -> None:
        """Write what the server lacks of the model and its versions."""
        for _ in self.steps(content):
            pass

    def steps(self, content: Content) -> Iterator[ModelVersion]:
        """As :meth:`write`, but yield each version before it is written."""
        model = content.entity
        assert isinstance(model, RegisteredModel)
        name = self.name_here(model)
        if name not in self._numbered:
            self._delete_first(model, name)
        here = self._registry.get(name)
        if here is not None:
            self._remove_fillers(here, model)
        changed = self._write_model(model, name, here) or self._numbered.get(name, False)
        numbers: dict[int, int] = {}
        waits = False
        for version in model.versions:
            yield version
            # A source cannot be changed later, nor can a number be had again: what needs something
            # that could not be made has to wait for the next import, and so do later versions.
            if self._needs_unsupported(version) and _twin(version, self._registry[name]) is None:
                self._lose(model, version, _NO_LOGGED_MODELS)
                continue
            waits = waits or self._needs_failed(version)
            if waits and _twin(version, self._registry[name]) is None:
                self._lose(
                    model, version, "its run or logged model could not be made; import again"
                )
                continue
            try:
                number = self._persist(model, version, name, content.version_artifacts)
            except ServerError as exc:
                if exc.status is None:
                    raise
                self._lose(model, version, exc.message)
                continue
            if number is not None:
                numbers[version.version] = number
                self._place_version(model, version, name, number)
        changed = self._write_aliases(model, name, here, numbers) or changed
        if changed:
            self._to.report.did(model.kind)
        else:
            self._to.report.found(model.kind)

    def _write_model(self, model: RegisteredModel, name: str, here: RegisteredModel | None) -> bool:
        tags = self._model_tags(model)
        if here is None:
            self._make_model(model, name, tags)
            return True
        if here.kind != model.kind:
            raise SinkError(
                f"{name} is a {_noun(here.kind)} at the destination",
                status=409,
                hint="--rename-model gives it another name",
            )
        new_tags, description = self._compare_model(model, here, tags)
        changed = self._set_tags(model.kind, model.name, {"name": name}, new_tags)
        if description is not None:
            self._describe(name, description)
        return changed or description is not None

    def _place_version(
        self, model: RegisteredModel, version: ModelVersion, name: str, number: int
    ) -> None:
        self._to.remap.place(
            VERSION_KIND[model.kind],
            f"{model.name}/{version.version}",
            f"{name}/{number}",
            source_root=files_of(version),
        )
        self._runs[f"{name}/{number}"] = version.run_id

    def _make_model(
        self, model: RegisteredModel, name: str, tags: dict[str, str]
    ) -> RegisteredModel:
        self._create_model(model, name, tags)
        for field in _UNSETTABLE:
            self._to.report.adjust(model.kind, field)
        made = type(model)(name=name, description=model.description, tags=tags)
        self._registry[name] = made
        self._surveyed.add(name)
        return made

    def _create_model(self, model: RegisteredModel, name: str, tags: dict[str, str]) -> None:
        """Make the model, without the tags that the server refuses: each of those is a loss."""
        body: dict[str, Any] = {"name": name, "tags": records.tag_list(tags)}
        if model.description:
            body["description"] = model.description
        try:
            self._post("registered-models/create", body)
        except ServerError as exc:
            exists = exc.error_code == "RESOURCE_ALREADY_EXISTS"
            if exists and self._is_made(name, model.description, tags):
                return  # by an attempt whose answer got lost
            if not _refuses_a_value(exc):
                raise
        else:
            return
        marks = {key: value for key, value in tags.items() if _makes_a_prompt(key)}
        self._post("registered-models/create", {"name": name, "tags": records.tag_list(marks)})
        others = {key: value for key, value in tags.items() if key not in marks}
        self._set_tags(model.kind, model.name, {"name": name}, others)
        if model.description:
            try:
                self._describe(name, model.description)
            except ServerError as exc:
                if not _refuses_a_value(exc):
                    raise
                self._to.report.lose(model.kind, model.name, exc.message, field="description")

    def _is_made(self, name: str, description: str, tags: dict[str, str]) -> bool:
        """Whether there is a model as it was to be made."""
        answer = self._to.session.get(
            f"{API}registered-models/get", params={"name": name}, what=f"model {name!r}"
        )
        here = answer["registered_model"]
        tags_here = {tag["key"]: tag.get("value", "") for tag in here.get("tags", ())}
        return (here.get("description", ""), tags_here) == (description, tags)

    def _describe(self, name: str, description: str) -> None:
        self._post(
            "registered-models/update", {"name": name, "description": description}, method="PATCH"
        )

    def _set_tags(self, kind: str, id: str, which: dict[str, str], tags: dict[str, str]) -> bool:
        """Set tags of a model or version one by one; one that is refused is a loss."""
        endpoint = "model-versions/set-tag" if "version" in which else "registered-models/set-tag"
        changed = False
        for key, value in tags.items():
            try:
                self._post(endpoint, {**which, "key": key, "value": value})
            except ServerError as exc:
                if not _refuses_a_value(exc):
                    raise
                self._to.report.lose(kind, id, exc.message, field=f"tags.{key}")
            else:
                changed = True
        return changed

    def _model_tags(self, model: RegisteredModel, report: Report | None = None) -> dict[str, str]:
        tags = self._to.tags_of(model.kind, model.tags, report=report)
        if PROMPT_EXPERIMENTS_TAG in tags:
            del tags[PROMPT_EXPERIMENTS_TAG]
            moved = moved_experiments(model.tags[PROMPT_EXPERIMENTS_TAG], self._to.remap)
            if moved:
                tags[PROMPT_EXPERIMENTS_TAG] = moved
        return tags

    def _compare_model(
        self, model: RegisteredModel, here: RegisteredModel, tags: dict[str, str]
    ) -> tuple[dict[str, str], str | None]:
        """Return the tags and the description to write."""
        new_tags: dict[str, str] = {}
        if PROMPT_EXPERIMENTS_TAG in here.tags and PROMPT_EXPERIMENTS_TAG in tags:
            old = here.tags[PROMPT_EXPERIMENTS_TAG]
            joined = join_experiments(old, tags.pop(PROMPT_EXPERIMENTS_TAG))
            if joined != old:
                new_tags[PROMPT_EXPERIMENTS_TAG] = joined
        new_tags |= self._to.changed(model.kind, model.name, "tags", here.tags, tags)
        return new_tags, self._new_description(
            model.kind, model.name, here.description, model.description
        )

    def _new_description(self, kind: str, id: str, here: str, bundle: str) -> str | None:
        if not bundle or here == bundle:
            return None
        if here and not self._to.differs(kind, id, "description", here=here, bundle=bundle):
            return None
        return bundle

    def _compare_version(
        self, model: RegisteredModel, version: ModelVersion, here: ModelVersion
    ) -> tuple[dict[str, str], str | None, str | None]:
        """Return the tags, the description and the stage to write."""
        kind = VERSION_KIND[model.kind]
        id = f"{model.name}/{version.version}"
        filling = here.tags.get(provenance.STATE) == provenance.IMPORTING
        tags = self._version_tags(model, version)
        tags.pop(provenance.ORIGIN)
        new_tags = self._to.changed(kind, id, "tags", here.tags, tags)
        description = self._new_description(kind, id, here.description, version.description)
        stage = None
        if here.current_stage != version.current_stage and (
            filling
            or self._to.differs(
                kind, id, "current_stage", here=here.current_stage, bundle=version.current_stage
            )
        ):
            stage = version.current_stage
        return new_tags, description, stage

    def _version_tags(
        self, model: RegisteredModel, version: ModelVersion, report: Report | None = None
    ) -> dict[str, str]:
        tags = self._to.tags_of(VERSION_KIND[model.kind], version.tags, report=report)
        tags[provenance.ORIGIN] = provenance.version_origin(version)
        return tags

    def _needs_failed(self, version: ModelVersion) -> bool:
        return any(need in self._to.failed for need in _needs(version))

    def _needs_unsupported(self, version: ModelVersion) -> bool:
        """Whether it is made of a logged model, at a server that will never have any."""
        return not self._to.since(3, 0) and any(
            kind == "logged_model" and id for kind, id in _needs(version)
        )

    def _persist(
        self,
        model: RegisteredModel,
        version: ModelVersion,
        name: str,
        trees: dict[int, ArtifactTree],
    ) -> int | None:
        """Write one version, again when the server failed: giving up uses up its number for ever.

        The failed request may have made it all the same, so the server is looked at in between.
        """
        for pause_s in _PAUSES_S:
            try:
                return self._write_version(model, version, name, trees)
            except ServerError as exc:
                if exc.status is None or not exc.retryable:
                    raise
            time.sleep(pause_s)
            fresh = list_registry(self._to.session, self._to.version, self._to.files)
            if name in fresh:
                self._registry[name] = fresh[name]
                self._remove_fillers(fresh[name], model)
        return self._write_version(model, version, name, trees)

    def _write_version(
        self,
        model: RegisteredModel,
        version: ModelVersion,
        name: str,
        trees: dict[int, ArtifactTree],
    ) -> int | None:
        """Write one version; return its number at the server, or None when it is lost."""
        kind = VERSION_KIND[model.kind]
        here = self._registry[name]
        twin = _twin(version, here)
        if twin is not None:
            changed = self._update_version(model, version, name, twin)
            changed = self._fill_files(version, name, twin, trees) or changed
            if changed:
                self._to.report.did(kind)
            else:
                self._to.report.found(kind)
            return twin.version
        if not self._to.options.renumber and not self._number_is_free(model, version, here):
            self._lose_number(model, version)
            return None
        number = self._create_version(model, version, name, trees.get(version.version))
        if number is not None:
            self._to.report.did(kind)
        return number

    def _number_is_free(
        self, model: RegisteredModel, version: ModelVersion, here: RegisteredModel
    ) -> bool:
        highest = max((v.version for v in here.versions), default=0)
        if version.version > highest:
            return True
        self._to.report.conflict(
            VERSION_KIND[model.kind],
            f"{model.name}/{version.version}",
            "version",
            f"the destination has given out numbers up to {highest}",
        )
        return False

    def _update_version(
        self, model: RegisteredModel, version: ModelVersion, name: str, here: ModelVersion
    ) -> bool:
        new_tags, description, stage = self._compare_version(model, version, here)
        which = {"name": name, "version": str(here.version)}
        kind, id = VERSION_KIND[model.kind], f"{model.name}/{version.version}"
        changed = self._set_tags(kind, id, which, new_tags)
        if description is not None:
            self._post(
                "model-versions/update", {**which, "description": description}, method="PATCH"
            )
        if stage is not None:
            self._set_stage(which, stage)
        if provenance.FILLER in here.tags:
            self._delete_tag(which, provenance.FILLER)
            changed = True
        if here.tags.get(provenance.STATE) == provenance.IMPORTING:
            self._complete(which)
            return True
        return changed or description is not None or stage is not None

    def _create_version(
        self,
        model: RegisteredModel,
        version: ModelVersion,
        name: str,
        tree: ArtifactTree | None,
        *,
        complete: bool = True,
    ) -> int | None:
        """Make one version; return its number, or None when it is lost.

        Args:
            complete: Whether it is all there then; else :meth:`write` will find and complete it.
        """
        kind = VERSION_KIND[model.kind]
        tags = self._version_tags(model, version, None if complete else Report())
        needs_stage = version.current_stage not in ("", "None")
        if needs_stage or not complete:
            tags[provenance.STATE] = provenance.IMPORTING
        if self._to.options.renumber:
            tags[provenance.SOURCE_VERSION] = str(version.version)
        body: dict[str, Any] = {"name": name, "tags": records.tag_list(tags)}
        if version.description:
            body["description"] = version.description
        if version.run_link:
            body["run_link"] = version.run_link
        body |= self._source(model, version, name, tree)
        tags_left: dict[str, str] = {}
        try:
            number = self._make_number(name, body, version.version)
        except ServerError as exc:
            tags_left = {key: value for key, value in tags.items() if not _is_needed(key)}
            if not (tags_left and _refuses_a_value(exc)):
                raise
            # Perhaps it is one of the tags: they are given one by one.
            needed = {key: value for key, value in tags.items() if key not in tags_left}
            needed[provenance.STATE] = provenance.IMPORTING
            body["tags"] = records.tag_list(needed)
            number = self._make_number(name, body, version.version)
        if number is None:
            self._lose(model, version, "its number was used before by a deleted version", hint=True)
            return None
        for field in _UNSETTABLE:
            self._to.report.adjust(kind, field)
        if version.user_id:
            self._to.report.adjust(kind, "user_id")
        if version.status_message:
            self._to.report.adjust(kind, "status_message")
        if version.status != "READY":
            self._to.report.adjust(kind, "status (READY)")
        if number != version.version:
            self._to.report.adjust(kind, "version (--renumber)")
        which = {"name": name, "version": str(number)}
        self._set_tags(kind, f"{model.name}/{version.version}", which, tags_left)
        if needs_stage:
            self._set_stage(which, version.current_stage)
        if complete and (needs_stage or tags_left):
            self._complete(which)
        self._remember(
            name,
            ModelVersion(
                name=name,
                version=number,
                description=version.description,
                current_stage=version.current_stage,
                tags=tags,
            ),
        )
        return number

    def _make_number(self, name: str, body: dict[str, Any], wanted: int) -> int | None:
        """Create the version under ``wanted``, filling the gap before it; None if it is used up."""
        here = self._registry[name]
        highest = max((v.version for v in here.versions), default=0)
        highest = max(highest, self._given_out.get(name, 0))
        if self._to.options.renumber:
            return self._post_version(body)
        if wanted - highest > MAX_GAP:
            raise SinkError(
                f"{name}/{wanted}: {wanted - highest - 1} numbers would have to be used up "
                f"before it, at most {MAX_GAP}; --renumber gives it the next free one",
                status=409,
            )
        is_trial = name not in self._surveyed
        if not is_trial:
            highest = self._fill(here, highest, wanted)
        if highest >= wanted:
            return None
        number = self._post_version(_as_filler(body) if is_trial else body)
        while number < wanted:
            self._delete_version(name, number)
            self._fill(here, number, wanted)
            number, is_trial = self._post_version(body), False
        if number > wanted:
            self._delete_version(name, number)
            return None
        if is_trial:
            self._delete_tag({"name": name, "version": str(number)}, provenance.FILLER)
        return number

    def _fill(self, here: RegisteredModel, highest: int, wanted: int) -> int:
        """Use up the numbers between; return the highest that is used then."""
        while highest + 1 < wanted:
            highest = self._fill_number(here.name, isinstance(here, Prompt))
        return highest

    def _fill_number(self, name: str, is_prompt: bool) -> int:
        tags = {provenance.FILLER: "true"}
        if is_prompt:
            tags |= {PROMPT_TAG: "true", "mlflow.prompt.text": ""}
        number = self._post_version(
            {
                "name": name,
                "source": _PROMPT_SOURCE if is_prompt else _FILLER_SOURCE,
                "tags": records.tag_list(tags),
            }
        )
        self._delete_version(name, number)
        return number

    def _remove_fillers(self, here: RegisteredModel, model: RegisteredModel) -> None:
        """Delete what an import left behind that was killed between making and deleting it."""
        mine = {provenance.version_origin(version): version.version for version in model.versions}
        for version in [v for v in here.versions if provenance.FILLER in v.tags]:
            number = mine.get(provenance.version_origin(version))
            if number is not None and (number == version.version or self._to.options.renumber):
                # It got its own number: :meth:`_update_version` says so.
                continue
            self._delete_version(here.name, version.version)
            here.versions.remove(version)
            highest = self._given_out.get(here.name, 0)
            self._given_out[here.name] = max(highest, version.version)

    def _post_version(self, body: dict[str, Any]) -> int:
        answer: records.RestModelVersionAnswer = self._to.session.post(
            f"{API}model-versions/create",
            body,
            type=records.RestModelVersionAnswer,
            what=f"version of {body['name']}",
            once=True,
        )
        number = int(answer.model_version.version)
        self._given_out[body["name"]] = number
        self._surveyed.add(body["name"])
        return number

    def _delete_version(self, name: str, number: int) -> None:
        self._post("model-versions/delete", {"name": name, "version": str(number)}, method="DELETE")

    def _source(
        self, model: RegisteredModel, version: ModelVersion, name: str, tree: ArtifactTree | None
    ) -> dict[str, str]:
        """Return source, run and logged model that the server is given."""
        kind = VERSION_KIND[model.kind]
        if isinstance(model, Prompt):
            return {"source": version.source or _PROMPT_SOURCE}
        moved = rewrite_version_source(version, self._to.remap)
        stays = self._to.options.artifacts == "reference" and not _is_of_a_server(moved.source)
        if not moved.moved and not stays and tree is not None and tree.mode == "included":
            return self._upload_files(version, name, moved.run_id, tree)
        body = {"source": moved.source}
        made_of = moved.source.removeprefix("models:/")
        if model_version_of(moved.source) is not None and self._to.since(3, 17):
            # The server takes the run of the version that it is made of, and accepts no other.
            if self._runs.get(made_of, version.run_id) != version.run_id:
                self._to.report.adjust(kind, "run_id (that of the version that it is made of)")
        elif moved.run_id:
            body["run_id"] = moved.run_id
            if moved.run_id == version.run_id:
                self._to.report.adjust(kind, "run_id (points outside)")
        if moved.model_id:
            if moved.model_id in self._to.deleted_models:
                raise SinkError(
                    f"its logged model {moved.model_id} is deleted at the destination, where no "
                    "version can be made of it any more",
                    status=409,
                )
            body["model_id"] = moved.model_id
        if moved.source != version.source:
            self._to.report.adjust(kind, "source")
        elif not moved.moved:
            self._to.report.adjust(kind, "source (points outside)")
        return body

    def _upload_files(
        self, version: ModelVersion, name: str, run_id: str, tree: ArtifactTree
    ) -> dict[str, str]:
        """Write files that belong to no run that was moved, and return where they are now."""
        run = self._to.remap.find("run", version.run_id) if version.run_id else None
        if run is not None:
            root, below = run.sink_root, f"{HELD_DIRECTORY}/{name}/{version.version}"
        else:
            info = self._make_holder(version, name)
            run_id, root, below = info.run_id, info.artifact_uri, HOLDER_DIRECTORY
        writer = self._file_writer(version, root, run_id, below)
        files = writer.missing(tree, fresh=run is None, filling=True)
        writer.write(tree, files)
        self._to.report.adjust("model_version", "source")
        return {"source": f"{root.rstrip('/')}/{below}", "run_id": run_id}

    def _fill_files(
        self, version: ModelVersion, name: str, here: ModelVersion, trees: dict[int, ArtifactTree]
    ) -> bool:
        """Write what is missing of the files of a version; return whether something was.

        An import without files has made it, or one that could not write all of them.
        """
        tree = trees.get(version.version)
        if tree is None or tree.mode != "included" or self._to.options.artifacts != "copy":
            return False
        moved = rewrite_version_source(version, self._to.remap).moved
        if moved or provenance.ORIGIN not in here.tags:
            return False
        for below in (HOLDER_DIRECTORY, f"{HELD_DIRECTORY}/{name}/{version.version}"):
            root = here.source.removesuffix(f"/{below}")
            if here.run_id and root != here.source and root == self._root_of(here.run_id):
                writer = self._file_writer(version, root, here.run_id, below)
                files = writer.missing(tree, fresh=False, filling=False)
                return writer.write(tree, files) > 0
        return False

    def _root_of(self, run_id: str) -> str:
        """Return where the files of a run of the server lie; empty where it has no such run."""
        try:
            answer: records.RestRunAnswer = self._to.session.get(
                f"{API}runs/get",
                params={"run_id": run_id},
                type=records.RestRunAnswer,
                what=f"run {run_id}",
            )
        except ServerError as exc:
            if exc.status != HTTPStatus.NOT_FOUND:
                raise
            return ""
        return answer.run.info.artifact_uri.rstrip("/")

    def _file_writer(
        self, version: ModelVersion, root: str, run_id: str, below: str
    ) -> ArtifactWriter:
        return ArtifactWriter(
            self._to,
            kind="model_version",
            source_id=f"{version.name}/{version.version}",
            root=root,
            owner=ArtifactOwner("run", run_id),
            below=below,
        )

    def _make_holder(self, version: ModelVersion, name: str) -> records.RestRunInfo:
        """Find or make a run for files that a server accepts only inside some run."""
        origin = provenance.version_origin(version)
        found: records.RestRuns = self._to.session.post(
            f"{API}runs/search",
            {
                "experiment_ids": [self._holders_experiment()],
                "filter": f"tags.`{provenance.ORIGIN}` = {_quoted(origin)}",
                "max_results": 1,
            },
            type=records.RestRuns,
            what=f"run for the files of {name}/{version.version}",
        )
        info = found.runs[0].info if found.runs else self._create_holder(version, name, origin)
        if info.status != "FINISHED":
            # Also one that an import left behind that was killed here.
            self._post(
                "runs/update",
                {
                    "run_id": info.run_id,
                    "status": "FINISHED",
                    "end_time": version.creation_timestamp or 0,
                },
            )
        return info

    def _create_holder(self, version: ModelVersion, name: str, origin: str) -> records.RestRunInfo:
        answer: records.RestRunAnswer = self._to.session.post(
            f"{API}runs/create",
            {
                "experiment_id": self._holders_experiment(),
                "run_name": f"files of {name} version {version.version}",
                "start_time": version.creation_timestamp or 0,
                "tags": records.tag_list(self._to.options.extra_tags | {provenance.ORIGIN: origin}),
            },
            type=records.RestRunAnswer,
            what=f"run for the files of {name}/{version.version}",
            once=True,
        )
        self._to.report.adjust("model_version", "run_id (a run was made for its files)")
        return answer.run.info

    def _holders_experiment(self) -> str:
        """Return the experiment that such runs are in: the first one of the server, or our own."""
        if self._holders:
            return self._holders
        session = self._to.session
        try:
            first = get_experiment(session, _FIRST_EXPERIMENT)
        except ServerError as exc:
            if exc.status != HTTPStatus.NOT_FOUND:
                raise
        else:
            if first.lifecycle_stage == "active":
                self._holders = first.experiment_id
                return self._holders
        try:
            self._post("experiments/create", {"name": _HOLDERS_EXPERIMENT})
        except ServerError as exc:
            if exc.status is None:
                raise
        self._holders = experiment_named(session, _HOLDERS_EXPERIMENT).experiment_id
        return self._holders

    def _write_aliases(
        self,
        model: RegisteredModel,
        name: str,
        here: RegisteredModel | None,
        numbers: dict[int, int],
    ) -> bool:
        changed = False
        for alias, number in self._new_aliases(model, here.aliases if here else {}, numbers):
            if not self._to.since(2, 3):
                self._to.report.lose(
                    model.kind, model.name, "the server has no aliases", field=f"aliases.{alias}"
                )
                continue
            body = {"name": name, "alias": alias, "version": str(number)}
            try:
                self._post("registered-models/alias", body)
            except ServerError as exc:
                if exc.status is None:
                    raise
                self._to.report.lose(model.kind, model.name, exc.message, field=f"aliases.{alias}")
                continue
            changed = True
        return changed

    def _new_aliases(
        self, model: RegisteredModel, existing: dict[str, int], numbers: dict[int, int]
    ) -> list[tuple[str, int]]:
        """Return the aliases to write, with the numbers that their versions have here."""
        new = []
        for alias, version in model.aliases.items():
            number = numbers.get(version)
            if number is None or existing.get(alias) == number:
                continue
            if alias not in existing or self._to.differs(
                model.kind, model.name, f"aliases.{alias}", here=existing[alias], bundle=number
            ):
                new.append((alias, number))
        return new

    def _set_stage(self, which: dict[str, str], stage: str) -> None:
        self._post(
            "model-versions/transition-stage",
            {**which, "stage": stage, "archive_existing_versions": False},
        )

    def _complete(self, which: dict[str, str]) -> None:
        self._delete_tag(which, provenance.STATE)

    def _delete_tag(self, which: dict[str, str], key: str) -> None:
        self._post("model-versions/delete-tag", {**which, "key": key}, method="DELETE")

    def _remember(self, name: str, version: ModelVersion) -> None:
        here = self._registry[name]
        here.versions.append(version)

    def _lose(
        self, model: RegisteredModel, version: ModelVersion, reason: str, *, hint: bool = False
    ) -> None:
        if not hint:
            self.await_model_of(version)
        else:
            reason += " (--renumber gives the next free one, --rename-model another name)"
        self._to.report.lose(VERSION_KIND[model.kind], f"{model.name}/{version.version}", reason)

    def _lose_number(self, model: RegisteredModel, version: ModelVersion) -> None:
        self._lose(model, version, "another version holds its number", hint=True)

    def await_model_of(self, version: ModelVersion) -> None:
        """Keep the logged model of a version from being deleted before the version can be made."""
        for uri in (version.source, version.storage_location or ""):
            if (model_id := logged_model_id_of(uri)) is not None:
                self._to.awaited_models[model_id] = f"{version.name}/{version.version}"

    def _post(self, endpoint: str, body: dict[str, Any], *, method: str = "POST") -> None:
        what = f"{body.get('name', '')}/{body.get('version', '')}".rstrip("/") or endpoint
        self._to.session.call(method, f"{API}{endpoint}", json_body=body, what=what)


def _needs(version: ModelVersion) -> list[tuple[str, str | None]]:
    """Kind and id of the runs and logged models that a version names or has its files in."""
    return [
        ("run", version.run_id),
        ("run", run_id_of(version.source)),
        ("logged_model", logged_model_id_of(version.source)),
        ("logged_model", logged_model_id_of(version.storage_location or "")),
    ]


def _refuses_a_value(exc: ServerError) -> bool:
    """Whether an error says that something sent is wrong, rather than who sent it or when."""
    return exc.status == HTTPStatus.BAD_REQUEST


def _makes_a_prompt(key: str) -> bool:
    """Whether a tag is what tells a prompt, or a version of one, from a registered model."""
    return key.startswith(("mlflow.prompt.", "_mlflow_prompt"))


def _is_needed(key: str) -> bool:
    """Whether a version without this tag would be another one, or none."""
    return key.startswith(provenance.PREFIX) or _makes_a_prompt(key)


def _is_of_a_server(source: str) -> bool:
    """Whether it is on a server's disk or in what it serves: others take it of their runs only."""
    return bool(is_local_uri(source)) or urlsplit(source).scheme == PROXY_SCHEME


def _as_filler(body: dict[str, Any]) -> dict[str, Any]:
    """Return what makes a version that an interrupted import is not taken to have completed."""
    return {**body, "tags": [*body["tags"], {"key": provenance.FILLER, "value": "true"}]}


def _quoted(text: str) -> str:
    """Text as MLflow's filters take it; one with both kinds of quotes cannot be written."""
    return f'"{text}"' if "'" in text else f"'{text}'"


def _noun(kind: str) -> str:
    return kind.replace("_", " ")


def _twin(version: ModelVersion, here: RegisteredModel) -> ModelVersion | None:
    """The server's version that is this one: of the same origin."""
    origin = provenance.version_origin(version)
    for other in here.versions:
        if provenance.version_origin(other) == origin:
            return other
    return None
