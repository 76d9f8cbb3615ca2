"""Both services' states survive a snapshot, with classes that the loader knows only."""

import io
import pickle

from cluster import Cluster, node, spec

from loom.kit.snapshot import Loader
from loom.v1 import scheduler_pb2 as pb


def test_states_come_back_equal():
    cluster = Cluster(node("a", gpus=1, labels={"zone": "x"}))
    script = pb.InputFile(path="train.py", content=b"print(1)")
    job_id = cluster.submit(spec(gpus=1, inputs=[script], node_selector={"zone": "x"}))
    cluster.submit(spec(gpus=1))
    cluster.settle()
    cluster.start(job_id)
    cluster.checkpoint(job_id, 1)
    for state in (cluster.scheduler, cluster.books):
        assert Loader(io.BytesIO(pickle.dumps(state))).load() == state
