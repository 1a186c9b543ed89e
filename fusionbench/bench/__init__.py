"""How fast methods train on this machine, as a ratio to the bare network.

subjects      what is timed: the bare network, and methods as `fusionbench run` trains them
measure       subjects in turn, round by round
speed_table   the result as a table for a terminal, Markdown, csv or JSON
"""
