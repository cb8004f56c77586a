"""The verbs that are written out: parse, call, print."""
