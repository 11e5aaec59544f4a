"""Which installation a process works for: its row, its keys, and the processes beside this one."""
