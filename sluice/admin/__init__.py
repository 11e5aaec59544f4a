"""The operations behind the command line: what an operator can read and decide. They do not use a
terminal.
"""
