-- Step 3: deletes each row in the transaction that inserts it; the WAL keeps the insert.
CREATE FUNCTION sluice.forget_outgoing() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM sluice.outbox_events WHERE queue = NEW.queue AND id = NEW.id;
    RETURN NULL;
END $$;
CREATE TRIGGER forget_outgoing AFTER INSERT ON sluice.outbox_events
    FOR EACH ROW EXECUTE FUNCTION sluice.forget_outgoing();
