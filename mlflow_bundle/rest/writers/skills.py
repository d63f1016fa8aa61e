"""Writes skills: organization and name say which is which, below them the version's number.

The server counts versions itself, deleted ones too, and gives no number twice. Where numbers are
missing in the bundle, versions that are deleted at once use them up here; where a version may come
with the next import, those behind it wait for that. What is uploaded for a version comes as one
archive with it, or not at all.

A version that is not at once as it is to be, because its number or its status may be another one,
is made as a draft, and a tag of its skill says until then which one that is.
"""

from __future__ import annotations

import io
import json
import tarfile
import time
from collections.abc import Iterable
from typing import Any

import msgspec
from urllib3.filepost import encode_multipart_formdata

from mlflow_bundle import provenance
from mlflow_bundle.contracts import ArtifactTree, Content
from mlflow_bundle.credentials import mask_uri
from mlflow_bundle.errors import ServerError, SinkError, UnsupportedEntityError
from mlflow_bundle.kinds.skills import Skill, SkillVersion
from mlflow_bundle.rest.lost_answers import made_once
from mlflow_bundle.rest.readers.skills import (
    SKILLS,
    RestSkill,
    RestSkillVersion,
    list_versions,
    skill_path,
)
from mlflow_bundle.rest.registry_writer import MAX_GAP
from mlflow_bundle.rest.writers.base import Writer, same_json
from mlflow_bundle.skill_files import VersionTree

_UNSETTABLE = ("created_by", "last_updated_by", "creation_timestamp", "last_updated_timestamp")
_FIRST_STATUSES = frozenset({"draft", "active"})
"""Statuses that a version may be made with (mlflow/utils/validation.py)."""
_STEPS = {("draft", "deprecated"): "active", ("deprecated", "draft"): "active"}
"""What a status has to become before it may become another one
(``VALID_SKILL_STATUS_TRANSITIONS``, mlflow/entities/skill.py)."""
_DELETABLE = frozenset({"draft", "deprecated"})
_FIXED = ("source_type", "source", "ref", "subpath", "digest")

_PAUSES_S = (1.0, 3.0)

_FILLER = {
    "source_type": "git",
    "source": "https://mlflow-bundle.invalid/filler.git",
    "status": "draft",
}
"""A version that only uses up a number."""


class SkillWriter(Writer):
    """Writes skills with all that lies below them."""

    kind = Skill.kind

    def examine(self, content: Content) -> None:
        skill = _skill(content)
        found = self._find(skill)
        if found is None:
            return
        shown, versions = found
        self._to.report.found(Skill.kind)
        self.changes(skill, shown)
        self._to.changed(Skill.kind, skill.id, "tags", shown.tags, self.tags(skill.tags))
        self._to.changed(Skill.kind, skill.id, "aliases", _texts(shown), _texts(skill))
        unsettled = _unsettled(shown)
        for version in _versions(content):
            here = versions.get(version.version)
            if here is None:
                continue
            if not (version.version in unsettled and is_same(version, here)):
                self.new_status(skill, version, here)
            self.new_tags(skill, version, here)

    def put(self, content: Content) -> None:
        skill = _skill(content)
        found = self._find(skill)
        if found is None:
            shown, versions = self._create(skill), dict[int, SkillVersion]()
        else:
            shown, versions = found
        written = _Written(self, skill, content.artifacts, shown, versions, fresh=found is None)
        if found is not None and (changes := self.changes(skill, shown)):
            written.patch("", changes)
        for version in _versions(content):
            written.version(version)
        written.remove_fillers()
        written.tags(shown)
        written.aliases(shown)
        if found is None or written.count:
            self._to.report.did(Skill.kind)
        else:
            self._to.report.found(Skill.kind)

    def _find(self, skill: Skill) -> tuple[Skill, dict[int, SkillVersion]] | None:
        """Return the skill and its versions here."""
        if not self._to.since(3, 18):
            raise UnsupportedEntityError(
                f"{_what(skill)}: the server has no registry of skills (it came with MLflow 3.18)",
                status=404,
            )
        shown = self._get(skill)
        if shown is None:
            return None
        versions = list_versions(self._to.session, skill.id)
        return shown, {version.version: version for version in versions}

    def _get(self, skill: Skill) -> Skill | None:
        session = self._to.session
        try:
            found: RestSkill = session.get(skill_path(skill.id), type=RestSkill, what=_what(skill))
        except ServerError as exc:
            if session.is_missing(exc) and not session.is_absent(exc):
                return None
            raise
        return found.record()

    def _create(self, skill: Skill) -> Skill:
        body: dict[str, Any] = {"name": skill.name, "organization": skill.organization}
        if skill.description is not None:
            body["description"] = skill.description
        if skill.icons is not None:
            body["icons"] = json.loads(skill.icons)
        made = made_once(lambda: self._post(skill, body), lambda: self._get(skill))
        for name in _UNSETTABLE:
            self._to.report.adjust(Skill.kind, name)
        return made

    def _post(self, skill: Skill, body: dict[str, Any]) -> Skill:
        made: RestSkill = self._to.session.post(
            SKILLS, body, type=RestSkill, what=_what(skill), once=True
        )
        return made.record()

    def changes(self, skill: Skill, here: Skill) -> dict[str, Any]:
        """Return the fields of the skill that are to be written."""
        changes: dict[str, Any] = {}
        for name in ("description", "icons"):
            value, other = getattr(skill, name), getattr(here, name)
            same = same_json(other, value) if name == "icons" else other == value
            if value is None or same:
                continue
            if other is None or self._to.differs(
                Skill.kind, skill.id, name, here=other, bundle=value
            ):
                changes[name] = json.loads(value) if name == "icons" else value
        return changes

    def new_status(self, skill: Skill, version: SkillVersion, here: SkillVersion) -> str | None:
        """Return the status that a version is to have, if that is another one.

        Nothing else of it can be changed: what differs is a conflict.
        """
        id = f"{skill.id}/{version.version}"
        for name in _FIXED:
            value, other = getattr(version, name), getattr(here, name)
            if name == "source" and other:
                if version.has_files and here.has_files and version.digest == here.digest:
                    continue  # the same files, at another place
                other = mask_uri(other)
            if value is not None and value != other:
                reason = "the destination has another one, which cannot be changed"
                self._to.report.conflict(Skill.kind, id, name, reason)
        if version.status != here.status and self._to.differs(
            Skill.kind, id, "status", here=here.status, bundle=version.status
        ):
            return version.status
        return None

    def new_tags(self, skill: Skill, version: SkillVersion, here: SkillVersion) -> dict[str, str]:
        """Return the tags of a version that are to be written."""
        id = f"{skill.id}/{version.version}"
        return self._to.changed(Skill.kind, id, "tags", here.tags, self.tags(version.tags))

    def tags(self, tags: dict[str, str]) -> dict[str, str]:
        """Return tags as they are to be here."""
        return self._to.tags_of(Skill.kind, tags)


class _Written:
    """Writes what lies below one skill, and counts it.

    Args:
        writer: Of the import.
        skill: The bundle's.
        files: The bundle's, of all its versions.
        shown: It here.
        here: Its versions here, by number.
        fresh: Whether it was made now, so that the next number is known.
    """

    def __init__(
        self,
        writer: SkillWriter,
        skill: Skill,
        files: ArtifactTree,
        shown: Skill,
        here: dict[int, SkillVersion],
        *,
        fresh: bool,
    ) -> None:
        self._writer = writer
        self._to = writer._to
        self._skill = skill
        self._files = files
        self._here: dict[int, SkillVersion] = {}
        self._fillers: list[int] = []
        """Those that are still there, of this import or of one that was killed."""
        self._last = 0
        """The highest number that is known to be given."""
        self._take(here.values())
        self._is_certain = fresh
        """Whether no higher one can be given."""
        self._named = set(shown.aliases.values())
        self._unsettled = _unsettled(shown)
        """Which versions may not yet be as they are to be."""
        self._awaited: int | None = None
        """The version that the next import may bring, for which the others wait."""
        self.count = 0

    def remove_fillers(self) -> None:
        """Delete what has used up numbers, but for one that tells the next import the last of them.

        Only the deleted version could have told it, which no server shows.
        """
        for number in list(self._fillers):
            if self._awaited is None or number < self._last:
                try:
                    self._remove_filler(number)
                except ServerError as exc:
                    self._lose(f"versions[{number}]", exc)

    def version(self, version: SkillVersion) -> None:
        """Write one version; one that the server refuses is a loss."""
        number = version.version
        try:
            here = self._here.get(number)
            is_unsettled = number in self._unsettled
            if here is None:
                if is_unsettled:
                    self._remove_misplaced(version)
                here = self._create_patiently(version)
                status: str | None = version.status
            elif is_unsettled and is_same(version, here):
                status = version.status
            else:
                status = self._writer.new_status(self._skill, version, here)
            if status is not None and status != here.status:
                self._set_status(number, here.status, status)
            self._settle(number)
            for key, value in self._writer.new_tags(self._skill, version, here).items():
                self._post(f"versions/{number}/tags", key=key, value=value)
        except ServerError as exc:
            may_come = self._lose(f"versions[{number}]", exc)
            if number in self._here:
                return
            if not may_come:
                self._give_up(number)
            elif self._awaited is None:
                self._awaited = number

    def _create_patiently(self, version: SkillVersion) -> SkillVersion:
        """Make a version, again when the server failed: giving up uses up its number for ever.

        Raises:
            ServerError: That is not possible.
        """
        for pause_s in _PAUSES_S:
            try:
                return self._create(version)
            except ServerError as exc:
                if exc.status is None or not exc.retryable or self._awaited is not None:
                    raise
            time.sleep(pause_s)
            self._look_again()
            here = self._here.get(version.version)
            if here is not None and is_same(version, here):
                return self._count(version, here)
        return self._create(version)

    def _create(self, version: SkillVersion) -> SkillVersion:
        """Make a version under its number.

        Raises:
            ServerError: That is not possible.
        """
        number = version.version
        if self._last + 1 > number:
            raise self._taken()
        if self._awaited is not None:
            raise SinkError(
                f"it waits for version {self._awaited}, whose number it would use up",
                status=409,
                retryable=True,
            )
        body: dict[str, Any] = {"status": version.status}
        files = b""
        if version.has_files:
            body["digest"] = version.digest
            files = self._packed(version)
        else:
            body |= {name: value for name in _FIXED if (value := getattr(version, name))}
        if number - self._last > MAX_GAP:
            raise SinkError(
                f"its number would need {number - self._last - 1} versions to be made and deleted",
                status=409,
            )
        while self._last + 1 < number:
            filler = self._post_version(_FILLER).version
            for earlier in list(self._fillers):
                self._remove_filler(earlier)
            self._fillers.append(filler)
        if self._last + 1 > number:
            raise self._taken()
        if not self._is_certain or version.status not in _FIRST_STATUSES:
            self._unsettle(number)
            body["status"] = "draft"
        known = set(self._here)
        try:
            made = self._post_version(body, files)
        except ServerError as exc:
            if exc.status is not None:
                self._look_again()
            new = (v for n, v in self._here.items() if n not in known and n >= number)
            here = next((v for v in new if is_same(version, v)), None)
            if here is None:
                raise
            made = here  # only the answer got lost
        if made.version != number:
            self._withdraw(made)
            self._settle(number)
            raise self._taken()
        return self._count(version, made)

    def _count(self, version: SkillVersion, made: SkillVersion) -> SkillVersion:
        self._here[made.version] = made
        self.count += 1
        self._report(version)
        return made

    def _look_again(self) -> None:
        """Find out which versions there are."""
        self._take(list_versions(self._to.session, self._skill.id))

    def _take(self, found: Iterable[SkillVersion]) -> None:
        self._here = {version.version: version for version in found}
        self._last = max(self._last, *self._here, 0)
        self._fillers = [n for n, version in self._here.items() if _is_filler(version)]
        for number in self._fillers:
            del self._here[number]

    def _remove_misplaced(self, version: SkillVersion) -> None:
        """Delete a version that a killed import made under another number than its own."""
        for number, here in list(self._here.items()):
            if (
                number > version.version
                and here.status == "draft"
                and not here.tags
                and number not in self._named
                and is_same(version, here)
            ):
                self._delete(number)
                del self._here[number]

    def _withdraw(self, made: SkillVersion) -> None:
        """Delete a version that got another number than its own."""
        self._here.pop(made.version, None)
        if made.status not in _DELETABLE:
            self._set_status(made.version, made.status, "draft")
        self._delete(made.version)

    def _unsettle(self, number: int) -> None:
        """Have the skill say that a version may not yet be as it is to be."""
        if number not in self._unsettled:
            self._unsettled.add(number)
            self._say_unsettled()

    def _settle(self, number: int) -> None:
        """Have the skill say no more of a version."""
        if number in self._unsettled:
            self._unsettled.remove(number)
            self._say_unsettled()

    def _give_up(self, number: int) -> None:
        try:
            self._settle(number)
        except ServerError as exc:
            self._lose(f"tags.{provenance.STATE}", exc)

    def _say_unsettled(self) -> None:
        if self._unsettled:
            numbers = map(str, sorted(self._unsettled))
            value = " ".join((provenance.IMPORTING, *numbers))
            self._post("tags", key=provenance.STATE, value=value)
        else:
            path = f"{skill_path(self._skill.id)}/tags/{provenance.STATE}"
            self._to.session.remove(path, what=_what(self._skill))

    def _report(self, version: SkillVersion) -> None:
        for name in _UNSETTABLE:
            self._to.report.adjust(Skill.kind, f"versions.{name}")
        if version.has_files:
            self._to.report.adjust(Skill.kind, "versions.source (where its files are now)")
            for file in VersionTree(self._files, version.version).files():
                self._to.report.did("artifact", size=file.size or 0)
                self._to.progress.advance(bytes=file.size or 0)

    def _packed(self, version: SkillVersion) -> bytes:
        """Return the files of a version as the server takes them: a compressed tar archive.

        Raises:
            ServerError: There are none, or they cannot be read.
        """
        tree = VersionTree(self._files, version.version)
        copies = self._to.options.artifacts == "copy"
        files = tree.files() if copies and tree.mode == "included" else []
        if not files:
            why = "the bundle has none" if copies else f"--artifacts {self._to.options.artifacts}"
            raise SinkError(
                f"{_what(self._skill)}, version {version.version}: the server makes it with its "
                f"files only ({why})",
                status=409,
            )
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz", format=tarfile.PAX_FORMAT) as archive:
            for file in files:
                with (content := tree.open(file)).stream as stream:
                    member = tarfile.TarInfo(file.path)
                    member.size = content.size
                    archive.addfile(member, stream)
        return packed.getvalue()

    def _post_version(self, body: dict[str, Any], files: bytes = b"") -> SkillVersion:
        what = f"{_what(self._skill)}, a new version"
        path = f"{skill_path(self._skill.id)}/versions"
        if not files:
            made: RestSkillVersion = self._to.session.post(
                path, body, type=RestSkillVersion, what=what, once=True
            )
        else:
            data, content_type = encode_multipart_formdata(
                {
                    "metadata": ("metadata.json", msgspec.json.encode(body), "application/json"),
                    "content": ("content.tar.gz", files, "application/gzip"),
                }
            )
            made = self._to.session.upload(
                path, data, content_type=content_type, type=RestSkillVersion, what=what
            )
        self._last = max(self._last, made.version)
        self._is_certain = True
        return made.record()

    def _taken(self) -> SinkError:
        return SinkError(
            "its number was given at the destination to a version that is deleted", status=409
        )

    def _set_status(self, number: int, old: str, new: str) -> None:
        for status in (_STEPS.get((old, new)), new):
            if status is None or status == old:
                continue
            try:
                self.patch(f"/versions/{number}", {"status": status})
            except ServerError:
                # One whose answer got lost is sent again, and refused: it is so already.
                shown = {v.version: v for v in list_versions(self._to.session, self._skill.id)}
                if number not in shown or shown[number].status != status:
                    raise

    def _remove_filler(self, number: int) -> None:
        try:
            self._delete(number)
        except ServerError as exc:
            reason = "it only uses up its number and stays as a draft"
            raise SinkError(
                f"{exc.message} ({reason})", status=exc.status, retryable=exc.retryable
            ) from exc
        self._fillers.remove(number)

    def _delete(self, number: int) -> None:
        path = f"{skill_path(self._skill.id)}/versions/{number}"
        self._to.session.remove(path, what=f"{_what(self._skill)}, version {number}")

    def tags(self, here: Skill) -> None:
        """Write the skill's tags."""
        tags = self._writer.tags(self._skill.tags)
        new = self._to.changed(Skill.kind, self._skill.id, "tags", here.tags, tags)
        for key, value in new.items():
            self._try(f"tags.{key}", "tags", key=key, value=value)

    def aliases(self, here: Skill) -> None:
        """Write the aliases."""
        new = self._to.changed(
            Skill.kind, self._skill.id, "aliases", _texts(here), _texts(self._skill)
        )
        for alias, version in new.items():
            self._try(f"aliases.{alias}", "aliases", alias=alias, version=int(version))

    def patch(self, below: str, changes: dict[str, Any]) -> None:
        """Change the skill, or what is below it."""
        self._to.session.call(
            "PATCH",
            f"{skill_path(self._skill.id)}{below}",
            json_body=changes,
            what=_what(self._skill),
        )
        self.count += 1

    def _try(self, field: str, below: str, **body: Any) -> None:
        try:
            self._post(below, **body)
        except ServerError as exc:
            self._lose(field, exc)

    def _post(self, below: str, **body: Any) -> None:
        path = f"{skill_path(self._skill.id)}/{below}"
        self._to.session.post(path, body, what=_what(self._skill))
        self.count += 1

    def _lose(self, field: str, exc: ServerError) -> bool:
        """Count a loss; return whether the next import may bring it."""
        if exc.status is None:
            raise exc
        self._to.report.lose(Skill.kind, self._skill.id, exc.message, field=field)
        return self._to.may_come(exc, Skill.kind, self._skill.id)


def is_same(version: SkillVersion, here: SkillVersion) -> bool:
    """Whether a version here has what the bundle's has of all that cannot be changed."""
    if version.has_files:
        return here.has_files and version.digest in (None, here.digest)
    found = msgspec.structs.replace(here, source=here.source and mask_uri(here.source))
    return all(getattr(version, name) == getattr(found, name) for name in _FIXED)


def _is_filler(version: SkillVersion) -> bool:
    return version.source == _FILLER["source"] and version.status == _FILLER["status"]


def _unsettled(shown: Skill) -> set[int]:
    """Return the numbers of the versions that an import may have left half-made."""
    state, *numbers = shown.tags.get(provenance.STATE, "").split(" ")
    is_ours = state == provenance.IMPORTING and all(map(str.isdecimal, numbers))
    return set(map(int, numbers)) if is_ours else set()


def _skill(content: Content) -> Skill:
    assert isinstance(content.entity, Skill)
    return content.entity


def _versions(content: Content) -> list[SkillVersion]:
    versions = [item for item in content.items() if isinstance(item, SkillVersion)]
    return sorted(versions, key=lambda version: version.version)


def _texts(skill: Skill) -> dict[str, str]:
    return {alias: str(version) for alias, version in skill.aliases.items()}


def _what(skill: Skill) -> str:
    return f"skill {skill.id!r}"
