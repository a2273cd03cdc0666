"""AgentChat's gRPC server.

`supervisor` starts workers, each a process that runs `worker`. A worker is an `application.Application`:
gRPC services in `services/`, behind the interceptors in `interceptors/`; one `writer.MessageWriter` that
coalesces posts; one `hub.LogHub` that follows the log for all of its streams.
"""
