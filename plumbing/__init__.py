"""Files, devices, processes and the command line: nothing here is about learning.

Skip this folder at first reading.
"""
