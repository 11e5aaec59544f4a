"""The operator's side: the command line and the local stack."""
