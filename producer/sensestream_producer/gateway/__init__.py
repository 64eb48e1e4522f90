"""The HTTP gateway in front of a pipeline: OpenAI's API, jobs, events, webhooks, a page.

It needs the extra `[gateway]`, and only the command line imports it. A gateway is stateless:
requests, outcomes, uploads and webhooks are in Redis, so any gateway can take over from another.
"""

__all__: list[str] = []
