-- Accounts with a status of this relay's own are few among millions, and all of them are wanted at each start.

CREATE INDEX account_local_status ON account (local_status) WHERE local_status <> 0;
