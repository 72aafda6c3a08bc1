-- Who writes to a database that several relays could reach: a random name of the process that holds it. (SQLite's file
-- lies in a data directory, which is locked: null there.)

ALTER TABLE checkpoint ADD COLUMN writer blob;
