"""The runtime edge: serves models by the Open Inference Protocol V2, each in a process of its own.

It decides nothing. The deployment service orders by `loom.v1.Runtime` what is served; people reach
it over REST and gRPC. A request goes door → tensors → replica (batch) → worker process → back.
"""
