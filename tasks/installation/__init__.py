"""The installation of a process: its row, its keys, and the other processes of the installation."""
