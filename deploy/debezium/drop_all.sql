-- Back to the relay: after the connector is removed and its slot dropped.
DROP TRIGGER forget_outgoing ON sluice.outbox_events;
DROP FUNCTION sluice.forget_outgoing();
DROP PUBLICATION sluice_outbox;
