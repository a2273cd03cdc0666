"""AgentChat's tests: `unit` for one module at a time, the other folders for the whole."""
