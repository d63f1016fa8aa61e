"""Users, roles and permissions: the database of MLflow's basic-auth app, beside any source or sink.

That database has nothing to do with where tracking data is. What reads and writes it is therefore
put around the source or sink of a tracking URI, whichever that is.
"""
