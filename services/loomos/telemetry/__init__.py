"""The telemetry edge: windows over GPU telemetry, to metrics and health reports.

It decides nothing: a lost or doubled sample makes a figure a little wrong and nothing else.
"""
