-- The connections of an account: where one URL receives the events of many accounts, each delivery looks here.
CREATE INDEX palisade_connection_account ON palisade_connection (account, provider, environment, id)
    WHERE account IS NOT NULL;
