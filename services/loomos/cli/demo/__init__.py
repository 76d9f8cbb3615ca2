"""`loomos demo`: one real training job, end to end, each step told with the event that proves it.

One module a chapter, in the order of the story: people, nodes, training, preemption, crashes,
ending, serving, costs, audit, tampering. `stage.py` is what they share; `story.py` the command.
"""
