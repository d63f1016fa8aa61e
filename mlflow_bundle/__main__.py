"""``python -m mlflow_bundle``: the same commands as ``mlflow-bundle``."""

from mlflow_bundle.cli.main import main

if __name__ == "__main__":
    main()
