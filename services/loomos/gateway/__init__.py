"""The gateway: REST and OpenAPI transcoded from the contracts, for people and their programs.

It decides nothing and has no rights: each call is forwarded with its caller's own token.
"""
