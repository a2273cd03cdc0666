"""`python -m agentchat_cli` is `agentchat`."""

from agentchat_cli.main import main

if __name__ == "__main__":
    main()
