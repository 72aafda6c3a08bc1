-- How far the identities follow a directory's export of operations (PLC_MIRROR). With it identity.resolved_us may be
-- negative: the row is that of an operation made then, as good as the mirror is complete, and of no use without it.

CREATE TABLE plc_mirror (
    url TEXT PRIMARY KEY,               -- the directory
    seq BIGINT NOT NULL,                -- of the last operation followed
    complete_us BIGINT NOT NULL         -- all rows of did:plc are as the directory had them then; 0 = not yet
);
