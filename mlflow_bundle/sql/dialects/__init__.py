"""What differs between the databases that MLflow runs on: one module for each."""

from __future__ import annotations

from mlflow_bundle.sql.dialects.base import Dialect
from mlflow_bundle.sql.dialects.mysql import MySql
from mlflow_bundle.sql.dialects.postgresql import PostgreSql
from mlflow_bundle.sql.dialects.sqlite import Sqlite

DIALECTS: dict[str, Dialect] = {
    dialect.name: dialect for dialect in (Sqlite(), PostgreSql(), MySql())
}
"""Name, as SQLAlchemy has it, to dialect."""
