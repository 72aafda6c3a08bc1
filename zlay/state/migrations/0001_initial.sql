-- One set of statements for SQLite and PostgreSQL. Two type names are ours: `blob` is bytes, `tidtext` is text. All text
-- is compared byte by byte. SQLite reads both names by its affinity rules; PostgreSQL is given its own for them.
-- Row numbers (host.id, account.uid) are given by zlay, not by the database. Statuses of accounts are the numbers of
-- zlay._fast.verdicts.Status. Times are unix microseconds.

CREATE TABLE checkpoint (
    id INTEGER PRIMARY KEY,             -- always 1
    store_id blob,                      -- the log's store id; null = not yet given
    applied_seq BIGINT NOT NULL,        -- every event up to here is in these tables
    dedup_from BIGINT NOT NULL          -- log seq from which a restart looks for events that hosts will send again
);

INSERT INTO checkpoint (id, store_id, applied_seq, dedup_from) VALUES (1, NULL, 0, 0);

CREATE TABLE host (
    id INTEGER PRIMARY KEY,             -- 1.. in the order first seen; also in the log's index
    hostname TEXT NOT NULL UNIQUE,      -- name or name:port, lower case
    status TEXT NOT NULL,               -- active, idle, offline, throttled, banned
    no_tls SMALLINT NOT NULL,
    upstream_cursor BIGINT,             -- null = live
    epoch INTEGER NOT NULL,             -- of its numbering; 1..
    account_count BIGINT NOT NULL,      -- accounts here that are not deleted
    account_limit BIGINT,               -- null = by tier
    source TEXT NOT NULL,               -- config, upstream, request, admin
    created_us BIGINT NOT NULL
);

CREATE TABLE account (
    uid INTEGER PRIMARY KEY,            -- 1.. in the order first seen: the order of listRepos
    did TEXT NOT NULL UNIQUE,
    host_id INTEGER NOT NULL,           -- 0 = none yet
    upstream_status SMALLINT NOT NULL,
    local_status SMALLINT NOT NULL,
    desynchronized SMALLINT NOT NULL,
    last_seq BIGINT NOT NULL            -- of the event that changed this row last
);

CREATE TABLE account_repo (
    uid INTEGER PRIMARY KEY,
    rev tidtext NOT NULL,
    data blob NOT NULL,                 -- 36-byte CIDs
    head blob NOT NULL,
    last_seq BIGINT NOT NULL
);

CREATE TABLE identity (
    did TEXT PRIMARY KEY,
    pds TEXT,                           -- null = none usable
    key_type SMALLINT NOT NULL,         -- 0 none, 1 K-256, 2 P-256
    key_point blob NOT NULL,
    resolved_us BIGINT NOT NULL         -- 0 = must be asked for again before use
);

CREATE TABLE domain_ban (
    domain TEXT PRIMARY KEY,            -- this name and every name under it
    created_us BIGINT NOT NULL
);

CREATE TABLE backfill_progress (
    collection TEXT PRIMARY KEY,
    source TEXT NOT NULL,
    page_cursor TEXT,
    imported BIGINT NOT NULL,
    completed_us BIGINT                 -- null = not yet
);
