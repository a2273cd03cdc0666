"""The `agentchat` command."""
