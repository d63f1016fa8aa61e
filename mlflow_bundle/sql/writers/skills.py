"""Writes skills with their versions: organization and name say which is which."""

from __future__ import annotations

from typing import NamedTuple

from mlflow_bundle.contracts import Content
from mlflow_bundle.credentials import MASK
from mlflow_bundle.errors import SelectionError, UnsupportedEntityError
from mlflow_bundle.kinds.skills import Skill, SkillVersion
from mlflow_bundle.skill_files import VersionTree
from mlflow_bundle.sql.artifacts import in_workspace
from mlflow_bundle.sql.batch import Row
from mlflow_bundle.sql.merge import Merge
from mlflow_bundle.sql.writers.base import (
    FileWriter,
    Writer,
    json_text,
    made,
    null_names,
    own_masked,
    spaced,
)

_SKILLS, _VERSIONS = "skills", "skill_versions"
_COMPARED = ("description", "icons")
_VERSION_COMPARED = ("source_type", "source", "ref", "subpath", "digest", "status")


class _Version(NamedTuple):
    """A version on its way."""

    record: SkillVersion
    where: Row
    """Its key here."""
    row: Row
    here: Row | None


class SkillWriter(Writer):
    """Writes skills."""

    kind = Skill.kind

    def write(self, content: Content, *, dry: bool) -> None:
        skill = content.entity
        assert isinstance(skill, Skill)
        if not self._to.database.has(_SKILLS):
            raise UnsupportedEntityError(
                f"skill {skill.id!r}: the database has no registry of skills (it came with MLflow "
                "3.18)",
                status=404,
            )
        within: Row = {
            "workspace": self._to.workspace,
            "organization": skill.organization,
            "name": skill.name,
        }
        here = self._to.row(_SKILLS, within, *_COMPARED)
        if here is None and dry:
            return
        versions = [
            self._version(within, item, fresh=here is None)
            for item in content.items()
            if isinstance(item, SkillVersion)
        ]
        written = sum(self._write_files(skill, version, content, dry=dry) for version in versions)
        with Merge(self._to, self.kind, skill.id, fresh=here is None, dry=dry) as merge:
            merge.changed |= bool(written)
            self._write_skill(merge, skill, within, here)
            for version in versions:
                self._write_version(merge, skill, version)
            merge.map(
                "skill_aliases",
                within,
                skill.aliases,
                name="aliases",
                key="alias",
                value="version",
            )
            merge.count()

    def _version(self, within: Row, version: SkillVersion, *, fresh: bool) -> _Version:
        """Return what is to become of a version."""
        where: Row = {**within, "version": version.version}
        here = None if fresh else self._to.row(_VERSIONS, where, *_VERSION_COMPARED)
        row: Row = {
            **where,
            **{column: getattr(version, column) for column in _VERSION_COMPARED},
            **made(version),
        }
        if here is not None and version.has_files and here["digest"] == version.digest:
            row["source"] = here["source"]  # the same files
        return _Version(version, where, row, here)

    def _write_files(self, skill: Skill, version: _Version, content: Content, *, dry: bool) -> int:
        """Bring the files of a version to where the server looks for them; return how many."""
        source, here = version.row["source"], version.here
        is_kept = here is not None and here["source"] != source
        if not version.record.has_files or (is_kept and self._to.options.on_conflict != "update"):
            return 0
        id = f"{skill.id}/{version.record.version}"
        try:
            files = FileWriter(
                self._to,
                kind=self.kind,
                id=id,
                location=in_workspace(source, self._to.workspace),
                tree=VersionTree(content.artifacts, version.record.version),
            )
        except SelectionError as exc:  # nobody said where a server without a proxy has them
            self._to.report.lose(self.kind, id, f"{exc.message}; {exc.hint}", field="artifacts")
            return 0
        return 0 if dry else files.write(fresh=here is None)

    def _write_skill(self, merge: Merge, skill: Skill, within: Row, here: Row | None) -> None:
        from mlflow.store.tracking.skill_registry_search_text import (  # since MLflow 3.18
            build_skill_search_text,
        )

        row: Row = {
            **within,
            "description": skill.description,
            "icons": json_text(spaced(skill.icons), "icons", skill.null_fields),
            **made(skill),
        }
        search_text = {"search_text": build_skill_search_text(skill.name, skill.description)}
        written = own_masked(
            merge,
            _SKILLS,
            row | search_text,
            here,
            key=within,
            compared=_COMPARED,
            json_columns=("icons",),
        )
        if here is not None and "description" in written:
            merge.replace(_SKILLS, within, search_text)
        tags = self._to.tags_of(self.kind, skill.tags)
        merge.map("skill_tags", within, tags, name="tags", nulls=null_names(skill.null_fields))

    def _write_version(self, merge: Merge, skill: Skill, version: _Version) -> None:
        record = version.record
        name = f"versions.{record.version}"
        own_masked(
            merge,
            _VERSIONS,
            version.row,
            version.here,
            key=version.where,
            compared=_VERSION_COMPARED,
            uri_columns=("source",),
            name=name,
        )
        if version.here is None and MASK in (record.source or ""):
            what = f"skill {skill.id!r}, version {record.version}"
            self._to.report.note(f"{what}: set its masked source ({MASK}) again")
        merge.map(
            "skill_version_tags",
            version.where,
            self._to.tags_of(self.kind, record.tags),
            name=f"{name}.tags",
            nulls=[f"{name}.{entry}" for entry in null_names(record.null_fields)],
        )
