"""`python -m agentchat_cli`: the `agentchat` command."""

import sys

from agentchat_cli.main import main

if __name__ == "__main__":
    sys.exit(main())
