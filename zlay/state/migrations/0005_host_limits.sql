-- What an operator gives one host instead of its tier's limits, as a JSON object; null = nothing. And when the host's
-- cursor was moved last: null = never, or by a version that did not note it.

ALTER TABLE host ADD COLUMN limits TEXT;
ALTER TABLE host ADD COLUMN cursor_us BIGINT;
