"""Generated code of the AgentChat API, made by scripts/gen_protos.py."""
