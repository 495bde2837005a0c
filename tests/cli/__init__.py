"""Tests of the command line, as real processes and, where it is enough, in this."""
