"""The rpcs of the contract, and of gRPC's own services, as reflection over the descriptors finds them."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from typing import Any

from google.protobuf import descriptor_pb2, message, message_factory
from google.protobuf.descriptor import Descriptor, MethodDescriptor
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

import agentchat_proto.v1


@dataclass(frozen=True)
class Method:
    """An rpc."""

    descriptor: MethodDescriptor

    @property
    def path(self) -> str:
        return f"/{self.descriptor.containing_service.full_name}/{self.descriptor.name}"

    @property
    def input(self) -> Descriptor:
        descriptor: Descriptor = self.descriptor.input_type
        return descriptor

    @property
    def request_class(self) -> type[message.Message]:
        return message_factory.GetMessageClass(self.descriptor.input_type)

    @property
    def response_class(self) -> type[message.Message]:
        return message_factory.GetMessageClass(self.descriptor.output_type)

    @property
    def client_streaming(self) -> bool:
        return bool(self.descriptor.client_streaming)

    @property
    def server_streaming(self) -> bool:
        return bool(self.descriptor.server_streaming)

    @property
    def for_admins(self) -> bool:
        return str(self.descriptor.containing_service.name) == "AdminService"

    @property
    def only_reads(self) -> bool:
        level = self.descriptor.GetOptions().idempotency_level
        return bool(level == descriptor_pb2.MethodOptions.NO_SIDE_EFFECTS)

    def __str__(self) -> str:
        name: str = self.descriptor.full_name.removeprefix("agentchat.v1.")
        return name

    __repr__ = __str__


def _methods_of(*files: Any) -> list[Method]:
    return [
        Method(method)
        for file in files
        for service in file.services_by_name.values()
        for method in service.methods
    ]


METHODS = _methods_of(
    *(
        importlib.import_module(f"agentchat_proto.v1.{module.name}").DESCRIPTOR
        for module in pkgutil.iter_modules(agentchat_proto.v1.__path__)
        if module.name.endswith("_service_pb2")
    )
)
"""Every rpc of agentchat.v1."""

OTHER_METHODS = _methods_of(health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR)
"""What the server serves besides: health and reflection, whose failures have no reason of ours."""
