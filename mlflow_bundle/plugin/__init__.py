"""What MLflow loads through entry points. Nothing may be imported here: ``import mlflow`` pays."""
