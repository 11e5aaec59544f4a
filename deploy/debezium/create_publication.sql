-- Step 0: run it one time, before the connector starts. Requires wal_level = logical.
CREATE PUBLICATION sluice_outbox FOR TABLE sluice.outbox_events WITH (publish = 'insert');
