"""Source and sink over MLflow's database itself: ids, times and numbers are kept.

``database`` opens one and finds out what it has, ``dialects`` is what differs between SQLite,
PostgreSQL and MySQL, ``artifacts`` finds the files that belong to its rows. ``readers`` and
``writers`` know the tables of one kind of entity each; ``source`` and ``sink`` put them together.
"""
