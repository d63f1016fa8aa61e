"""What every writer of a REST import shares: the server, the new ids, the options, the report."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from mlflow_bundle.contracts import ArtifactPolicy
from mlflow_bundle.progress import Progress
from mlflow_bundle.references import rewrite_tags
from mlflow_bundle.remap import Remap
from mlflow_bundle.report import Report
from mlflow_bundle.rest.session import Session, since

T = TypeVar("T")

OnConflict = Literal["skip", "update", "fail"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """What the user asked of an import over REST.

    Attributes:
        experiment_name_prefix: Put before every experiment's name.
        rename_experiments: Old name to new name, applied before the prefix.
        rename_models: Old name to new name, for registered models and prompts.
        use_src_user_id: Whether runs keep their user; else they get the importing one.
        user: The importing user.
        on_conflict: What happens to values that differ: ``skip`` keeps the destination's,
            ``update`` takes the bundle's, ``fail`` stops before anything is written.
        delete_model: Whether a registered model of the same name is deleted first.
        renumber: Whether versions get the next free numbers instead of their own.
        steal: Whether another import's fresh mark is ignored.
        artifacts: Whether artifact files are written.
    """

    experiment_name_prefix: str = ""
    rename_experiments: dict[str, str] = field(default_factory=dict)
    rename_models: dict[str, str] = field(default_factory=dict)
    use_src_user_id: bool = True
    user: str = ""
    on_conflict: OnConflict = "skip"
    delete_model: bool = False
    renumber: bool = False
    steal: bool = False
    artifacts: ArtifactPolicy = "copy"


@dataclass(slots=True, kw_only=True)
class Destination:
    """One server that is written to."""

    session: Session
    version: tuple[int, ...]
    report: Report
    remap: Remap
    options: ImportOptions
    progress: Progress
    files: Executor
    """Uploads the files of one entity side by side."""
    failed: set[tuple[str, str]] = field(default_factory=set)
    """Kind and source id of runs and logged models that should be here and could not be made."""

    def since(self, *version: int) -> bool:
        """Whether the server has what came with MLflow ``version``."""
        return since(self.version, *version)

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
        completed = rewrite_tags(kind, other, self.remap, Report())
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

    @property
    def param_limit(self) -> int:
        """Characters of a param's value that the server keeps (it cuts silently)."""
        return 6000 if self.since(2, 8) else 500

    @property
    def tag_limit(self) -> int:
        """Characters of a run tag's value that the server keeps (it cuts silently)."""
        return 8000 if self.since(2, 17) else 5000

    def cut(
        self, kind: str, id: str, name: str, values: dict[str, str], limit: int
    ) -> dict[str, str]:
        """Return ``values`` no longer than the server keeps; each cut is a loss."""
        for key, value in values.items():
            if len(value) > limit:
                self.report.lose(
                    kind,
                    id,
                    f"{len(value)} characters; the server keeps {limit}",
                    field=f"{name}.{key}",
                )
        return {key: value[:limit] for key, value in values.items()}


def chunked(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of at most ``size`` items."""
    chunk: list[T] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
