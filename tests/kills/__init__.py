"""The kill proof: a board under load that is killed again and again, and the check of what was promised.

- `history`: what callers did and were told, written down while it happens.
- `stored`: what database and file store hold in the end.
- `model`: compares the two, and says in sentences what does not fit.
- `service`: a real `agentchat up`, its processes, and how to kill them.
- `writers`, `watchers`: the load, which writes the history.

`tests/e2e/test_kills.py` plays it; `tests/unit/test_kill_model.py` shows that the check finds what it is for.
"""
