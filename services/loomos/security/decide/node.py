"""Rules about nodes: one token, one node."""

from google.protobuf.message import Message

from loom.decider import Code, Context, Rejected
from loom.v1 import security_pb2 as pb
from loomos.security.state import State

__all__ = ["create_join_token", "join_node", "renew_node_certificate"]

LIFE_US = 15 * 60 * 1_000_000
LIFE_MAX_US = 24 * 3600 * 1_000_000


def create_join_token(
    command: pb.CreateJoinTokenRequest, state: State, context: Context
) -> list[Message]:
    """A one-time token for one node."""
    expires_at_us = command.expires_at_us or context.at_us + LIFE_US
    if not context.at_us < expires_at_us <= context.at_us + LIFE_MAX_US:
        raise Rejected(
            Code.INVALID_ARGUMENT,
            f"the token would end at {expires_at_us}: want a time within 24 hours from now "
            f"({context.at_us})",
            "expires_at_us",
        )
    return [
        pb.JoinTokenCreated(
            join_token_id=context.new_id("join"),
            cluster_id=command.cluster_id,
            secret_sha256=command.secret_sha256,
            expires_at_us=expires_at_us,
        )
    ]


def join_node(command: pb.JoinNodeRequest, state: State, context: Context) -> list[Message]:
    """A node's identity in the token's cluster."""
    token = state.join_tokens.get(command.join_token_id)
    if (
        token is None
        or token.secret_sha256 != command.secret_sha256
        or token.node_id
        or token.expires_at_us <= context.at_us
    ):
        raise Rejected(
            Code.UNAUTHENTICATED,
            "the join token is not valid: it is unknown, wrong, used or past its end",
        )
    if (token.cluster_id, command.node_name) in state.node_names:
        raise Rejected(
            Code.ALREADY_EXISTS,
            f"cluster {token.cluster_id!r} has a node named {command.node_name!r}: "
            "choose another name",
            "node_name",
        )
    # A node's id names its cluster, for that is the shard of those who schedule it.
    in_cluster = context._replace(shard=token.cluster_id)
    return [
        pb.NodeJoined(
            join_token_id=command.join_token_id,
            node_id=in_cluster.new_id("node"),
            node_name=command.node_name,
            cluster_id=token.cluster_id,
        )
    ]


def renew_node_certificate(command: pb.RenewNodeCertificateRequest, state: State) -> list[Message]:
    """A fresh certificate for a node that joined."""
    if command.node_id not in state.nodes:
        raise Rejected(Code.NOT_FOUND, f"node {command.node_id!r} never joined: join it", "node_id")
    return [pb.NodeCertificateRenewed(node_id=command.node_id)]
