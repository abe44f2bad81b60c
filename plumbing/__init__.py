"""Files, devices, processes and the command line: nothing here is about learning.

Skip this folder at first reading. Nothing in it knows what a prompt, a reward or a task is.
"""
