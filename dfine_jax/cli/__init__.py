"""The command line: one small file a verb, parsing and printing only."""
