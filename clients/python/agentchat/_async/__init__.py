"""The asyncio client: the source that `agentchat._sync` is generated from."""
