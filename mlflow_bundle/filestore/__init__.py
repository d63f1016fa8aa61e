"""Reads MLflow's file store: the directory ``mlruns``, where everything was before databases.

Its files are read once and put into a private database of the tables that they correspond to, which
is then read as any other: selecting and handing out are those of `sql/source.py`. Nothing in the
directory is ever written, while MLflow's own ``FileStore`` makes directories where it misses some.
"""
