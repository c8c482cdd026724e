-- What runs logged. A run is named by a key that its namesakes made later do not have.
CREATE TABLE runs (
    id INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    points INTEGER NOT NULL DEFAULT 0
) STRICT;

-- One metric of a run. `kind` and `columns` are azureml-core's (`azureml.v1.scalar`, {"loss": "double"}).
CREATE TABLE series (
    id INTEGER PRIMARY KEY,
    run INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    key TEXT NOT NULL,
    kind TEXT NOT NULL,
    columns TEXT NOT NULL,
    UNIQUE (run, key)
) STRICT;

-- One value. SQLite has no NaN, so `nan` says it; `data` holds what is no number (tables, texts).
CREATE TABLE points (
    id INTEGER PRIMARY KEY,
    series INTEGER NOT NULL REFERENCES series (id) ON DELETE CASCADE,
    metric_id TEXT,
    step INTEGER NOT NULL,
    time INTEGER NOT NULL,
    value REAL,
    nan INTEGER NOT NULL,
    data TEXT
) STRICT;
CREATE INDEX points_of_series ON points (series, id);
CREATE UNIQUE INDEX points_once ON points (series, metric_id) WHERE metric_id IS NOT NULL;

-- The value that counts as a metric's latest: highest step, then time, then value.
CREATE INDEX points_latest ON points (series, step, time, value);

CREATE TABLE params (
    run INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (run, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE inputs (
    run INTEGER NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    digest TEXT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (run, digest)
) STRICT, WITHOUT ROWID;
