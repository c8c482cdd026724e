-- Blobs by the generation of their container; what is in them lies in files of their own.
CREATE TABLE blobs (
    container  TEXT NOT NULL,             -- generation of the container
    name       TEXT NOT NULL,
    kind       TEXT NOT NULL,             -- BlockBlob or AppendBlob
    size       INTEGER NOT NULL,
    etag       INTEGER NOT NULL,          -- never used twice
    created    INTEGER NOT NULL,          -- microseconds since 1970
    modified   INTEGER NOT NULL,
    appends    INTEGER NOT NULL,          -- committed blocks of an append blob
    properties TEXT NOT NULL,             -- JSON
    metadata   TEXT NOT NULL,             -- JSON
    PRIMARY KEY (container, name)
) WITHOUT ROWID;
-- The content of a blob: files one after the other.
CREATE TABLE segments (
    container TEXT NOT NULL,
    name      TEXT NOT NULL,
    start     INTEGER NOT NULL,           -- where in the blob
    length    INTEGER NOT NULL,           -- never 0
    file      TEXT NOT NULL,
    block     TEXT,                       -- id of the block it was staged as
    PRIMARY KEY (container, name, start)
) WITHOUT ROWID;
CREATE INDEX segments_file ON segments (file);
-- Blocks that no list has committed yet.
CREATE TABLE staged (
    container TEXT NOT NULL,
    name      TEXT NOT NULL,
    block     TEXT NOT NULL,
    length    INTEGER NOT NULL,
    file      TEXT NOT NULL,
    staged    INTEGER NOT NULL,           -- microseconds since 1970
    PRIMARY KEY (container, name, block)
) WITHOUT ROWID;
CREATE INDEX staged_file ON staged (file);
-- Files that nothing points at any more.
CREATE TABLE garbage (
    file TEXT PRIMARY KEY NOT NULL
) WITHOUT ROWID;
CREATE TABLE last_etag (
    one  INTEGER PRIMARY KEY CHECK (one = 1),
    etag INTEGER NOT NULL
);
INSERT INTO last_etag VALUES (1, 0);
