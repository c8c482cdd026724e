-- The documents as they are now, and facts about the environment.
CREATE TABLE documents (
    key         TEXT PRIMARY KEY NOT NULL, -- lower-cased id
    id          TEXT NOT NULL,             -- spelled as created
    body        TEXT NOT NULL,             -- JSON
    seq         INTEGER NOT NULL,          -- commit that wrote this version
    created_seq INTEGER NOT NULL           -- commit that created the document
) WITHOUT ROWID;
CREATE TABLE meta (
    key   TEXT PRIMARY KEY NOT NULL,
    value TEXT NOT NULL
) WITHOUT ROWID;
