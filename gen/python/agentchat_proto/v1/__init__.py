"""Wire package `agentchat.v1`: messages and services, as in proto/."""
