"""The HTTP gateway: what existing clients speak, in front of a pipeline.

It needs the extra `[gateway]`; nothing outside this package and the command imports it. A gateway
keeps nothing that another one, or it itself after a restart, would miss: requests, outcomes,
uploads and webhooks are in Redis.
"""

__all__: list[str] = []
