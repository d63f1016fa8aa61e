"""Source and sink over MLflow's REST API, through MLflow's own client layer."""
