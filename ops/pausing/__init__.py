"""`sluice pause` and `sluice resume`: a topic that is not read, an entity that waits."""
