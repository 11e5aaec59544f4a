"""What an operator decides and reads, without a terminal: the services behind the command line."""
