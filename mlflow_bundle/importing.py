"""What every import shares, whatever it writes to: what was asked, and what follows from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Literal

from mlflow_bundle.contracts import ArtifactPolicy, HeldMember, Sizes
from mlflow_bundle.entities import Experiment
from mlflow_bundle.errors import ServerError
from mlflow_bundle.progress import Progress
from mlflow_bundle.provenance import carried_tags
from mlflow_bundle.references import rewrite_tags, rewrite_values
from mlflow_bundle.remap import Remap
from mlflow_bundle.report import Report
from mlflow_bundle.users import USER_TAG

WriteBeside = Callable[[Sequence[HeldMember], Path, Sequence[str]], "Future[Sizes] | None"]
"""Has members of a bundle written to paths below a directory by another process. Gives their sizes
to come; None where the caller has to write them."""

OnConflict = Literal["skip", "update", "fail"]

NEW = "(new)"
"""Stands for the id of what a dry run would create."""

_MAY_BE_PERMITTED = frozenset(
    {
        HTTPStatus.UNAUTHORIZED,
        HTTPStatus.FORBIDDEN,
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,  # a proxy's limit; MLflow has none
    }
)
"""Refusals that say nothing about the object: whoever runs the server can lift them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """What the user asked of an import into a server or its database.

    Attributes:
        experiment_name_prefix: Put before every experiment's name.
        rename_experiments: Old name to new name, applied before the prefix.
        rename_models: Old name to new name, for registered models and prompts.
        use_src_user_id: Whether runs keep their user; else they get the importing one.
        user: The importing user.
        users: User at the destination by user at the source, where they differ.
        extra_tags: Given to everything imported that has tags, instead of what the bundle says.
        on_conflict: What happens to values that differ: ``skip`` keeps the destination's,
            ``update`` takes the bundle's, ``fail`` stops before anything is written.
        delete_model: Whether a registered model of the same name is deleted first.
        renumber: Whether versions get the next free numbers instead of their own.
        placeholder_secrets: Whether secrets of the gateway are made with a placeholder for their
            values, so that what needs them can be made.
        steal: Whether another import's fresh mark is ignored.
        artifacts: Whether artifact files are written.
        rewrite_locations: New root by old root of files that are referred to; databases only.
    """

    experiment_name_prefix: str = ""
    rename_experiments: dict[str, str] = field(default_factory=dict)
    rename_models: dict[str, str] = field(default_factory=dict)
    use_src_user_id: bool = True
    user: str = ""
    users: dict[str, str] = field(default_factory=dict)
    extra_tags: dict[str, str] = field(default_factory=dict)
    on_conflict: OnConflict = "skip"
    delete_model: bool = False
    renumber: bool = False
    placeholder_secrets: bool = False
    steal: bool = False
    artifacts: ArtifactPolicy = "copy"
    rewrite_locations: dict[str, str] = field(default_factory=dict)

    def user_of(self, name: str) -> str:
        """Return who the source's user ``name`` is at the destination (``--user-map``).

        For users of runs and in tags; plain entities come with users mapped (`users.py`).
        """
        return self.users.get(name, name)


@dataclass(slots=True, kw_only=True)
class Importing:
    """One import on its way: the new ids, the options, the report."""

    report: Report
    remap: Remap
    options: ImportOptions
    progress: Progress
    files: Executor
    """Writes the files of one entity side by side."""
    write_beside: WriteBeside | None = None
    reserved_tags: set[str] = field(default_factory=set)
    """Tags that Databricks alone sets: those known, and those found out."""
    failed: set[tuple[str, str]] = field(default_factory=set)
    """Kind and source id of what should be here and could not be made."""
    new_experiments: set[str] = field(default_factory=set)
    """Ids here of the experiments that this import made."""
    unfinished: set[tuple[str, str]] = field(default_factory=set)
    """Kind and source id of what lacks something that the next import may bring."""
    server_writes_tags: bool = True
    """Whether the destination writes those of `SERVER_MADE_TAGS` by itself."""

    def was_here(self, experiment_id: str) -> bool:
        """Whether an experiment here may hold something from before this import."""
        return experiment_id != NEW and experiment_id not in self.new_experiments

    def may_come(self, error: ServerError, kind: str, id: str, experiment_id: str = "") -> bool:
        """Note what an error keeps from being whole if the same import may succeed later.

        Args:
            error: Why something of the object is lost.
            kind: Kind of the object.
            id: Its id at the source.
            experiment_id: Id at the source of the experiment that it lies in.

        Returns:
            Whether it may.
        """
        may_come = error.retryable or error.status in _MAY_BE_PERMITTED
        if may_come:
            self.unfinished.add((kind, id))
            if experiment_id:
                self.unfinished.add((Experiment.kind, experiment_id))
        return may_come

    def tags_of(
        self, kind: str, tags: dict[str, str], *, report: Report | None = None
    ) -> dict[str, str]:
        """Return the tags of one of the bundle's entities as they are to be here.

        Without those that only describe an import or that the server sets itself, ids replaced,
        users mapped (``--user-map``), those asked for added (``--tag``).

        Args:
            kind: Kind of the entity.
            tags: The bundle's.
            report: Told of adjustments; the import's own when not given.
        """
        report = report or self.report
        tags = carried_tags(tags)
        for key in [key for key in tags if key in self.reserved_tags]:
            del tags[key]
            report.adjust(kind, f"tags.{key} (Databricks sets it)")
        here = rewrite_tags(kind, tags, self.remap, report, server_writes=self.server_writes_tags)
        if USER_TAG in here:
            here[USER_TAG] = self.options.user_of(here[USER_TAG])
        return here | self.options.extra_tags

    def differs(self, kind: str, id: str, name: str, *, here: object, bundle: object) -> bool:
        """Report a value that differs; return whether the bundle's is to be written."""
        reason = f"the destination has {_short(here)}, the bundle {_short(bundle)}"
        if self.options.on_conflict == "update":
            self.report.conflict(kind, id, name, f"{reason}, which is taken")
            return True
        self.report.conflict(kind, id, name, reason)
        return False

    def changed(
        self, kind: str, id: str, name: str, here: dict[str, str], bundle: dict[str, str]
    ) -> dict[str, str]:
        """Return the entries of ``bundle`` to write: those missing here, and those that win.

        An entry that names something by its source id, because an earlier import left that out, is
        completed once it is here: that is an addition and no conflict.
        """
        other = {key: here[key] for key in bundle if key in here and here[key] != bundle[key]}
        completed = rewrite_values(kind, name, other, self.remap, Report())
        return {
            key: value
            for key, value in bundle.items()
            if key not in here
            or (
                key in other
                and (
                    completed.get(key) == value
                    or self.differs(kind, id, f"{name}.{key}", here=here[key], bundle=value)
                )
            )
        }


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
