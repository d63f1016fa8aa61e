"""Two local servers, contents for one of them, and a comparison of both: ``mlflow bundle demo``."""
