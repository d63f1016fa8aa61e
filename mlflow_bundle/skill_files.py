"""The files of a skill's versions: one tree, with a directory for each, named by its number."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mlflow_bundle.archive import escape_path, order_key
from mlflow_bundle.contracts import ArtifactFile, ArtifactTree, HeldMember, OpenedArtifact
from mlflow_bundle.errors import ServerError


class VersionTrees(ArtifactTree):
    """The files of several versions; those of one that cannot be listed are lost alone.

    Args:
        trees: Those of each version, by its number.
        lose: Told of the number of a version whose files are lost, and why.
        empty: Why, of one that has no files.
    """

    def __init__(
        self,
        trees: Mapping[int, ArtifactTree],
        *,
        lose: Callable[[int, str], object],
        empty: str,
    ) -> None:
        self._trees = {str(number): tree for number, tree in trees.items()}
        self._lose = lose
        self._empty = empty
        self._files: list[ArtifactFile] | None = None
        self.mode = next((tree.mode for tree in trees.values()), "included")

    @property
    def is_near(self) -> bool:  # type: ignore[override]
        return all(tree.is_near for tree in self._trees.values())

    @property
    def random_access(self) -> bool:  # type: ignore[override]
        return all(tree.random_access for tree in self._trees.values())

    def files(self) -> list[ArtifactFile]:
        if self._files is None:
            found: list[ArtifactFile] = []
            for number, tree in self._trees.items():
                try:
                    files = tree.files()
                except ServerError as exc:
                    if exc.status is None:
                        raise
                    self._lose(int(number), exc.message)
                    continue
                if not files and tree.mode == "included":
                    self._lose(int(number), self._empty)
                found += (file._replace(path=f"{number}/{file.path}") for file in files)
            self._files = sorted(found, key=lambda file: order_key(escape_path(file.path)))
        return self._files

    def files_of(self, number: int) -> list[ArtifactFile]:
        """Return the files of one version.

        Raises:
            ServerError: They cannot be listed.
        """
        tree = self._trees.get(str(number))
        return [] if tree is None else tree.files()

    def open(self, file: ArtifactFile) -> OpenedArtifact:
        number, _, path = file.path.partition("/")
        return self._trees[number].open(file._replace(path=path))


class VersionTree(ArtifactTree):
    """The files of one version.

    Args:
        tree: Those of its skill.
        number: Its number.
    """

    def __init__(self, tree: ArtifactTree, number: int) -> None:
        self._tree = tree
        self._number = number
        self._directory = f"{number}/"
        self.mode = tree.mode
        self.is_near = tree.is_near
        self.random_access = tree.random_access

    def files(self) -> list[ArtifactFile]:
        if isinstance(self._tree, VersionTrees):
            return self._tree.files_of(self._number)
        return [
            file._replace(path=file.path.removeprefix(self._directory))
            for file in self._tree.files()
            if file.path.startswith(self._directory)
        ]

    def open(self, file: ArtifactFile) -> OpenedArtifact:
        return self._tree.open(self._whole(file))

    def held(self, file: ArtifactFile) -> HeldMember | None:
        return self._tree.held(self._whole(file))

    def _whole(self, file: ArtifactFile) -> ArtifactFile:
        return file._replace(path=f"{self._directory}{file.path}")
