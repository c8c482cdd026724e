-- One row a commit: who did what, when. The newest row's seq is the sequence number of the world.
CREATE TABLE changes (
    seq         INTEGER PRIMARY KEY NOT NULL,
    principal   TEXT NOT NULL,
    operation   TEXT NOT NULL,
    correlation TEXT NOT NULL,
    time        TEXT NOT NULL              -- RFC 3339, UTC
);
-- Versions that were replaced. A null body says: deleted by commit seq.
CREATE TABLE history (
    key  TEXT NOT NULL,
    seq  INTEGER NOT NULL,
    body TEXT,
    PRIMARY KEY (key, seq)
) WITHOUT ROWID;
CREATE INDEX history_seq ON history (seq);
