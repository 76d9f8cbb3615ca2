"""The certificate authority of this machine's platform; security signs with it too."""

from loom.kit.authority import Authority, write_secret

__all__ = ["Authority", "write_secret"]
