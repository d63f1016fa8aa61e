"""One file for a whole MLflow server: export, look inside, import."""

__version__ = "0.1.0"
