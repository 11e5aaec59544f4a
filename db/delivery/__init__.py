"""SQL of the bridge and of queue leases: progress, queues, switches."""
