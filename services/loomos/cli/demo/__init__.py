"""`loomos demo`: one real training job, end to end, told step by step with the events that prove it.

One module a chapter, in the order of the story: people, nodes, training, preemption, crashes,
serving, costs, audit, tampering. `stage.py` holds what they share; `story.py` is the command.
"""
