"""Attach ``mlflow bundle`` to MLflow's own command line.

MLflow has no entry-point group for commands, but ``import mlflow`` loads the group
``mlflow.artifact_repository``, and with it this module (setup.cfg). The plan:

1. Loading this module puts a finder for the one module ``mlflow.cli`` in front of
   ``sys.meta_path``. Nothing else happens until somebody imports ``mlflow.cli``.
2. The finder asks the other finders for the module and wraps its ``exec_module``: once
   ``mlflow.cli`` has run, our group is added to its click group and the finder goes away.
3. If ``mlflow.cli`` has been imported already, the group is added at once.

Invariants: nothing heavy is imported, and no failure of ours escapes, since any exception here
would break ``import mlflow`` for everyone. A failure is a warning, and ``mlflow-bundle`` works.

Not promised: ``python -m mlflow.cli`` runs that file as ``__main__``, past every import hook.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # importing typing costs more than the whole of this module
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

_CLI_MODULE = "mlflow.cli"


def artifact_repository(*args: Any, **kwargs: Any) -> Any:
    """Return the artifact repository for an ``mlbundle:`` URI (entry point; called by MLflow).

    Takes what MLflow passes to any artifact repository class: ``artifact_uri`` first.
    """
    from mlflow_bundle.plugin.artifact_repository import BundleArtifactRepository

    return BundleArtifactRepository(*args, **kwargs)


class _CliFinder:
    """Meta path finder that adds our group when ``mlflow.cli`` has been executed, once."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != _CLI_MODULE:
            return None
        try:
            spec = self._find_elsewhere(name, path, target)
            if spec is not None and spec.loader is not None:
                self._wrap(spec)
            return spec
        except Exception as exc:  # rule of this module: import mlflow must go on
            _remove(self)
            _warn(exc)
            return None  # the other finders are asked as if we were not there

    def _find_elsewhere(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None
    ) -> ModuleSpec | None:
        for finder in list(sys.meta_path):
            if finder is self or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                return spec
        return None

    def _wrap(self, spec: ModuleSpec) -> None:
        loader: Any = spec.loader
        original: Callable[[ModuleType], None] = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            original(module)
            # Removed here and not in find_spec: someone may look for the module's spec only.
            _remove(self)
            _attach(module)

        loader.exec_module = exec_module


def _attach(module: ModuleType) -> None:
    try:
        from mlflow_bundle.cli.main import bundle

        module.cli.add_command(bundle)
    except Exception as exc:  # rule of this module
        _warn(exc)


def _remove(finder: _CliFinder) -> None:
    if finder in sys.meta_path:
        sys.meta_path.remove(finder)


def _warn(exc: Exception) -> None:
    try:
        import warnings

        warnings.warn(
            f"mlflow-bundle could not add 'mlflow bundle' ({type(exc).__name__}: {exc}); "
            "the command mlflow-bundle is the same",
            RuntimeWarning,
            stacklevel=2,
        )
    except Exception:  # warnings may be errors (-W error); nothing is left to say
        pass


def install() -> None:
    """Attach to ``mlflow.cli``, now or when it is imported. Never raises."""
    try:
        module = sys.modules.get(_CLI_MODULE)
        if module is not None:
            _attach(module)
        elif not any(isinstance(finder, _CliFinder) for finder in sys.meta_path):
            sys.meta_path.insert(0, _CliFinder())
    except Exception as exc:  # rule of this module
        _warn(exc)


install()
