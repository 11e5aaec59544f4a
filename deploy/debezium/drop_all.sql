-- Returns to the relay. Run it after you have removed the connector and dropped its slot.
DROP TRIGGER forget_outgoing ON sluice.outbox_events;
DROP FUNCTION sluice.forget_outgoing();
DROP PUBLICATION sluice_outbox;
